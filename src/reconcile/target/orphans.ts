// The orphans of the target: which objects no row names. Full scans and events only name candidates;
// each is read by name, so that an object that went meanwhile is not listed again by an older scan.
//
// It never changes an orphan.
import type { Logger } from "pino";
import {
  fleetHash,
  isUuid,
  parseOwnerNqn,
  parseStoreName,
  isOfZeroing,
} from "../../model/identity.ts";
import type { DiskRow } from "../../model/disk.ts";
import type { Orphan } from "../../model/orphan.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import type { LvolBdev } from "../../spdk/replies-bdev.ts";
import type { Subsystem } from "../../spdk/replies-nvmf.ts";
import type { Rows } from "../../store/rows.ts";
import { partsOf } from "./lvol-alias.ts";
import type { ReturnedLvols } from "./returned-lvols.ts";

export type OrphansOptions = {
  readonly spdk: Pick<SpdkClient, "getBdev" | "getSubsystem">;
  readonly rows: Rows;
  readonly fleet: string;
  readonly nqnPrefix: string;
  readonly log: Logger;
  readonly isStoreLoaded: (disk: DiskRow) => boolean;
  /** Lvols of deleted volumes are not orphans. */
  readonly returned: Pick<ReturnedLvols, "ofDeleted">;
};

type Listed = {
  readonly uuid: string;
  readonly alias: string;
  readonly store: { readonly name: string };
};

type FoundLvol = { readonly bdev: LvolBdev; readonly firstSeenTime: Date };

export class Orphans {
  readonly #options: OrphansOptions;
  readonly #fleet: string;
  /** By uuid; those that got a row since are left out when they are listed. */
  readonly #lvols = new Map<string, FoundLvol>();
  /** NQN to the time when it was first seen. */
  readonly #subsystems = new Map<string, Date>();
  /** Which subsystem shows a bdev, as of the last scan of subsystems. */
  #nqnByBdev: ReadonlyMap<string, string> = new Map();
  /** Reads under way of what a full scan or events have named. */
  readonly #reads = new Set<Promise<void>>();
  /** What was listed last, while nothing that it was made from has changed: every admission asks. */
  #listed: { readonly version: number; readonly orphans: readonly Orphan[] } | undefined;

  constructor(options: OrphansOptions) {
    this.#options = options;
    this.#fleet = fleetHash(options.fleet);
  }

  /** What lies in stores is there again once they are loaded. */
  beginProcess(): void {
    this.#listed = undefined;
    this.#subsystems.clear();
  }

  /** Resolves once all that was named so far has been read. */
  async settled(): Promise<void> {
    await Promise.all(this.#reads);
  }

  list(): readonly Orphan[] {
    const { version } = this.#options.rows;
    if (this.#listed?.version !== version) this.#listed = { version, orphans: this.#list() };
    return this.#listed.orphans;
  }

  #list(): readonly Orphan[] {
    const lvols = [...this.#lvols.values()].filter(
      ({ bdev }) => this.isOrphanLvol(bdev) && !isGone(this.#diskOf(bdev)),
    );
    const subsystems = [...this.#subsystems].filter(([nqn]) => this.isOrphanNqn(nqn));
    return [
      ...lvols.map((found) => this.#lvolOrphan(found)),
      ...subsystems.map(([nqn, firstSeenTime]) => this.#subsystemOrphan(nqn, firstSeenTime)),
    ];
  }

  /** The lvol and the subsystem, of those known, that have the id of a volume as a name. */
  named(id: string): readonly Orphan[] {
    return this.list().filter(({ likelyOwner }) => likelyOwner === id);
  }

  /** Why nothing may be made under an id whose name an lvol on another disk has; undefined: none has. */
  onAnotherDisk({
    id,
    diskId,
  }: {
    readonly id: string;
    readonly diskId: string;
  }): string | undefined {
    const found = this.named(id).find((one) => one.kind === "lvol" && one.diskId !== diskId);
    return found && `lvol ${found.name} (uuid ${found.uuid}) has the name, on another disk`;
  }

  /** The subsystems of a full scan. */
  applySubsystems(subsystems: readonly Subsystem[]): void {
    this.#listed = undefined;
    this.#nqnByBdev = new Map(
      subsystems.flatMap(({ nqn, namespaces }) => namespaces.map((one) => [one.bdevName, nqn])),
    );
    const listed = subsystems.filter(
      ({ nqn, subtype }) => subtype === "NVMe" && this.isOrphanNqn(nqn),
    );
    const nqns = new Set([...listed.map(({ nqn }) => nqn), ...this.#subsystems.keys()]);
    this.#inBackground(this.readSubsystems([...nqns]));
  }

  /** The lvols of a full scan. */
  applyLvols(lvols: readonly Listed[]): void {
    const uuids = new Set([...this.#withoutRow(lvols), ...this.#lvols.keys()]);
    if (uuids.size > 0) this.#inBackground(this.readLvols([...uuids]));
  }

  /** The lvols of one store: lists those that are orphans. */
  async readListed(lvols: readonly Listed[]): Promise<void> {
    const uuids = new Set([...this.#withoutRow(lvols), ...this.#lvols.keys()]);
    await this.readLvols([...uuids]);
  }

  #withoutRow(lvols: readonly Listed[]): readonly string[] {
    const { rows } = this.#options;
    const listed = lvols.filter(
      ({ uuid, alias, store }) => this.#isOurStore(store.name) && !hasRow(rows, uuid, alias),
    );
    return listed.map(({ uuid }) => uuid);
  }

  /** Events named these bdevs. Those of volumes are not read: they are observed by their loops. */
  applyEvents(registered: readonly string[], changed: readonly string[]): void {
    const candidates = registered.filter((name) => this.#isUnknownLvol(name));
    const known = changed.filter((name) => this.#lvols.has(name));
    const names = new Set([...candidates, ...known]);
    if (names.size > 0) this.#inBackground(this.readLvols([...names]));
  }

  #isUnknownLvol(name: string): boolean {
    const { rows } = this.#options;
    if (!isUuid(name) || rows.lvolByUuid(name) !== undefined) return false;
    return rows.snapshots.byUuid(name) === undefined;
  }

  /** Reads these lvols, each by uuid or alias, and lists those that are orphans. */
  async readLvols(names: readonly string[]): Promise<void> {
    const { spdk, returned, log } = this.#options;
    const bdevs = await Promise.all(names.map((name) => spdk.getBdev(name)));
    const unknown = bdevs.flatMap((bdev) =>
      bdev?.kind === "lvol" && this.isOrphanLvol(bdev) ? [bdev] : [],
    );
    const named = unknown.map((bdev) => ({
      uuid: bdev.uuid,
      ...partsOf(bdev),
      relatives: [bdev.lvol.baseSnapshot ?? [], bdev.lvol.clones].flat(),
    }));
    const deleted = await returned.ofDeleted(named);
    const found = new Map(
      unknown.flatMap((bdev) => (deleted.has(bdev.uuid) ? [] : [[bdev.uuid, bdev] as const])),
    );
    const fresh = [...found.keys()].filter((uuid) => !this.#lvols.has(uuid));
    this.#listed = undefined;
    for (const [index, name] of names.entries()) {
      const uuid = bdevs[index]?.uuid ?? name;
      if (!found.has(uuid) && !this.#isAway(uuid)) this.#lvols.delete(uuid);
    }
    for (const [uuid, bdev] of found) {
      const firstSeenTime = this.#lvols.get(uuid)?.firstSeenTime ?? new Date();
      this.#lvols.set(uuid, { bdev, firstSeenTime });
    }
    if (fresh.length === 0) return;
    const some = { count: fresh.length, uuids: fresh.slice(0, 10) };
    log.warn(some, "found orphan lvols (no row), left unchanged");
  }

  /** Reads these subsystems, and lists those that exist. */
  async readSubsystems(nqns: readonly string[]): Promise<void> {
    await Promise.all(
      nqns.map(async (nqn) => {
        const found = await this.#options.spdk.getSubsystem(nqn);
        this.#listed = undefined;
        if (found === undefined) this.#subsystems.delete(nqn);
        else if (!this.#subsystems.has(nqn)) this.#subsystems.set(nqn, new Date());
      }),
    );
  }

  isOrphanLvol(bdev: LvolBdev): boolean {
    const { store, name } = partsOf(bdev);
    const { rows } = this.#options;
    if (!this.#isOurStore(store) || hasRow(rows, bdev.uuid, `${store}/${name}`)) return false;
    // The agent is zeroing free space, or was, and removes this lvol itself.
    return !isOfZeroing(name) || this.#diskOf(bdev) === undefined;
  }

  /** A subsystem of this node by its NQN, without a volume; a tombstone has none. */
  isOrphanNqn(nqn: string): boolean {
    const { rows, nqnPrefix } = this.#options;
    if (!nqn.startsWith(`${nqnPrefix}:`) || parseOwnerNqn(nqnPrefix, nqn) !== undefined)
      return false;
    const row = rows.lvolByNqn(nqn);
    return row === undefined || row.deleteTime !== undefined;
  }

  #isOurStore(name: string): boolean {
    return parseStoreName(name)?.fleet === this.#fleet;
  }

  /** The disk of this node with the lvstore of an lvol. */
  #diskOf({ lvol }: LvolBdev) {
    return [...this.#options.rows.disks()].find(({ lvsUuid }) => lvsUuid === lvol.storeUuid);
  }

  /** Nothing is read of an lvol whose store is not loaded: it is as it was seen last. */
  #isAway(uuid: string): boolean {
    const { bdev } = this.#lvols.get(uuid) ?? {};
    const disk = bdev && this.#diskOf(bdev);
    return disk !== undefined && !isGone(disk) && !this.#options.isStoreLoaded(disk);
  }

  #lvolOrphan({ bdev, firstSeenTime }: FoundLvol): Orphan {
    const { uuid, sizeBytes, lvol } = bdev;
    const { store, name } = partsOf(bdev);
    const disk = this.#diskOf(bdev);
    const { clusterBytes } = disk ?? {};
    const allocated =
      lvol.allocatedClusters !== undefined && clusterBytes !== undefined
        ? lvol.allocatedClusters * clusterBytes
        : undefined;
    return {
      kind: "lvol",
      name: `${store}/${name}`,
      uuid,
      diskId: disk?.id ?? parseStoreName(store)?.diskId,
      sizeBytes,
      allocatedBytes: allocated ?? (lvol.thin ? undefined : sizeBytes),
      nqn: this.#nqnByBdev.get(uuid),
      firstSeenTime,
      likelyOwner: isUuid(name) ? name : undefined,
    };
  }

  #subsystemOrphan(nqn: string, firstSeenTime: Date): Orphan {
    const id = nqn.slice(this.#options.nqnPrefix.length + 1);
    return {
      kind: "subsystem",
      name: nqn,
      uuid: undefined,
      diskId: undefined,
      sizeBytes: 0n,
      allocatedBytes: undefined,
      nqn,
      firstSeenTime,
      likelyOwner: isUuid(id) ? id : undefined,
    };
  }

  /** A read that fails, as the connection was lost, is made again by the next full scan. */
  #inBackground(read: Promise<void>): void {
    const ended = read
      .catch((error: unknown) =>
        this.#options.log.debug({ err: error }, "cannot read orphans on the SPDK target"),
      )
      .finally(() => this.#reads.delete(ended));
    this.#reads.add(ended);
  }
}

/** Its store is not expected back. */
function isGone(disk: DiskRow | undefined): boolean {
  return disk?.state === "MISSING" || disk?.state === "RELEASED";
}

/**
 * Whether an lvol is a volume's or a snapshot's: by uuid, or by name while the volume may have been given an lvol
 * whose uuid is not recorded yet.
 */
function hasRow(rows: Rows, uuid: string, alias: string): boolean {
  if (rows.lvolByUuid(uuid) !== undefined || rows.snapshots.byUuid(uuid) !== undefined) return true;
  const { store, name } = partsOf({ aliases: [alias] });
  const snapshot = rows.snapshots.get(name);
  if (snapshot !== undefined) {
    if (snapshot.lvolUuid !== undefined || snapshot.pendingOp === undefined) return false;
    return rows.disk(snapshot.diskId)?.lvsName === store;
  }
  const row = rows.lvol(name);
  if (row === undefined || row.lvolUuid !== undefined || row.nameTaken) return false;
  return rows.disk(row.diskId)?.lvsName === store;
}
