// State of a running target that is lost when the process exits. Look-ups by name, alias and uuid
// use maps; lists keep the order of registration. No socket, no timer, no randomness except uuids.
import { randomUUID } from "node:crypto";
import { announceNamespaces, dropHosts } from "./host-connections.ts";
import { IoCounters } from "./io-counters.ts";
import type { Blob, Disk, Store } from "./media.ts";
import type { Address, Subsystem } from "./nvmf-objects.ts";
import { nextProcess } from "./process-identity.ts";

export type RateLimits = {
  rwIos: number;
  rwMbytes: number;
  readMbytes: number;
  writeMbytes: number;
};

type BdevCommon = {
  readonly name: string;
  readonly uuid: string;
  readonly limits: RateLimits;
  readonly io: IoCounters;
  /**
   * QoS was set while the bdev was not open: later changes always fail (docs/spdk-contract.md#qos).
   */
  qosStuck: boolean;
  /** A change of its limits is under way. */
  qosChanging: boolean;
  /** NQN of the subsystem that exports it. */
  exportedBy: string | undefined;
};

export type DiskBdev = BdevCommon & {
  readonly kind: "disk";
  readonly controller: Controller;
  readonly disk: Disk;
  loaded: LoadedStore | undefined;
};

export type LvolBdev = BdevCommon & {
  readonly kind: "lvol";
  readonly store: LoadedStore;
  readonly blob: Blob;
  /** Changes with every rename, including failed ones (docs/spdk-contract.md#lvols). */
  alias: string;
  numBlocks: number;
  /** Whether it was read-only or a snapshot when loaded or created; changes show after a reload. */
  shownReadOnly: boolean;
};

export type Bdev = DiskBdev | LvolBdev;

export type LoadedStore = {
  readonly store: Store;
  readonly base: DiskBdev;
  readonly lvols: Map<string, LvolBdev>;
  /** Names of lvols, including those being created. */
  readonly names: Set<string>;
};

export type Path = {
  readonly cntlid: number;
  readonly trtype: string;
  readonly traddr: string;
  readonly trsvcid: string | undefined;
  readonly subnqn: string | undefined;
  readonly adrfam: string | undefined;
};

export type Controller = {
  readonly name: string;
  /** The drive, by its namespaces; the lowest first. */
  readonly disks: readonly Disk[];
  readonly paths: Path[];
  readonly bdevs: DiskBdev[];
};

export type Event = { readonly type: string; readonly ctx: string; readonly id: number };

const MAX_EVENTS = 1_024;

export class Target {
  readonly bdevs = new Map<string, Bdev>();
  readonly #byAlias = new Map<string, Bdev>();
  readonly controllers = new Map<string, Controller>();
  readonly stores = new Map<string, LoadedStore>();
  /** Names of loaded stores, including those being created. */
  readonly storeNames = new Set<string>();
  readonly subsystems = new Map<string, Subsystem>();
  readonly transports: string[] = [];
  /** Disks whose store is being loaded. */
  readonly examining = new Set<DiskBdev>();
  readonly events: Event[] = [];
  readonly disks: readonly Disk[];
  readonly maxSubsystems: number;
  discovery = true;
  /** Latest first. */
  discoveryListeners: readonly Address[] = [];
  /** How often discovery answered at an address without a listener of its own: deprecated. */
  discoveryWarnings = 0;
  logLevel = "NOTICE";
  #nextEvent = 0;
  #nextCntlid = 1;
  /** Number of host connections since the process started. */
  hostConnections = 0;
  /** I/O of hosts that was completed, with success or not. */
  completedIo = 0;
  /** A transport was made that hides Dataset Management: discards of hosts are refused. */
  masksDiscard = false;
  /** The process is gone: nobody can connect, and nobody is connected. */
  ended = false;

  readonly process = nextProcess();
  readonly #eventTypes: readonly string[] | undefined;

  constructor(options: {
    readonly disks: readonly Disk[];
    readonly maxSubsystems: number;
    /** Default: all. */
    readonly eventTypes?: readonly string[];
  }) {
    this.disks = options.disks;
    this.maxSubsystems = options.maxSubsystems;
    this.#eventTypes = options.eventTypes;
  }

  /** By name, alias or uuid. */
  bdev(name: string): Bdev | undefined {
    return this.bdevs.get(name) ?? this.#byAlias.get(name);
  }

  lvol(name: string): LvolBdev | undefined {
    const bdev = this.bdev(name);
    return bdev?.kind === "lvol" ? bdev : undefined;
  }

  storeByName(name: string): LoadedStore | undefined {
    for (const loaded of this.stores.values()) if (loaded.store.name === name) return loaded;
    return undefined;
  }

  /** Writes pending changes to the disk journals; called before any answer is sent. */
  flush(): void {
    for (const disk of this.disks) disk.flush();
  }

  nextCntlid(): number {
    return this.#nextCntlid++;
  }

  notify(type: "bdev_register" | "bdev_unregister" | "bdev_resize", bdev: Bdev): void {
    if (this.#eventTypes?.includes(type) === false) return;
    this.events.push({ type, ctx: bdev.name, id: this.#nextEvent++ });
    if (this.events.length > MAX_EVENTS) this.events.shift();
  }

  registerDisk(controller: Controller, disk: Disk): DiskBdev {
    const name = `${controller.name}n${disk.facts.nsid}`;
    const bdev: DiskBdev = {
      kind: "disk",
      name,
      // A drive without NGUID and EUI64 gets a new uuid at every attach (recorded-pcie.json).
      uuid: randomUUID(),
      limits: noLimits(),
      io: new IoCounters(),
      qosStuck: false,
      qosChanging: false,
      exportedBy: undefined,
      controller,
      disk,
      loaded: undefined,
    };
    controller.bdevs.push(bdev);
    this.bdevs.set(name, bdev);
    this.#byAlias.set(bdev.uuid, bdev);
    return bdev;
  }

  loadStore(base: DiskBdev, store: Store): LoadedStore {
    const loaded: LoadedStore = { store, base, lvols: new Map(), names: new Set() };
    base.loaded = loaded;
    this.stores.set(store.uuid, loaded);
    this.storeNames.add(store.name);
    for (const blob of store.blobs.values()) {
      this.registerLvol(loaded, blob, { readOnly: blob.readOnly || blob.snapshot });
    }
    return loaded;
  }

  registerLvol(
    store: LoadedStore,
    blob: Blob,
    { readOnly }: { readonly readOnly: boolean },
  ): LvolBdev {
    const bdev: LvolBdev = {
      kind: "lvol",
      name: blob.uuid,
      uuid: blob.uuid,
      limits: noLimits(),
      io: new IoCounters(),
      qosStuck: false,
      qosChanging: false,
      exportedBy: undefined,
      store,
      blob,
      alias: `${store.store.name}/${blob.name}`,
      numBlocks: this.blocksOf(store, blob.clusters),
      shownReadOnly: readOnly,
    };
    this.bdevs.set(bdev.name, bdev);
    this.#byAlias.set(bdev.alias, bdev);
    store.lvols.set(bdev.uuid, bdev);
    store.names.add(blob.name);
    this.notify("bdev_register", bdev);
    return bdev;
  }

  blocksOf({ store, base }: LoadedStore, clusters: number): number {
    return (clusters * store.clusterBytes) / base.disk.facts.blockSize;
  }

  realias(bdev: LvolBdev, alias: string): void {
    if (this.#byAlias.get(bdev.alias) === bdev) this.#byAlias.delete(bdev.alias);
    bdev.alias = alias;
    this.#byAlias.set(alias, bdev);
  }

  /** The end of the process: every host loses its connection. */
  end(): void {
    this.ended = true;
    for (const subsystem of this.subsystems.values()) dropHosts(subsystem, () => true);
  }

  /** Removes a bdev from every list, with its namespace; the subsystem stays. */
  unregister(bdev: Bdev): void {
    if (bdev.exportedBy !== undefined) this.dropNamespace(bdev.exportedBy, bdev);
    this.bdevs.delete(bdev.name);
    if (bdev.kind === "disk") {
      this.#byAlias.delete(bdev.uuid);
    } else {
      if (this.#byAlias.get(bdev.alias) === bdev) this.#byAlias.delete(bdev.alias);
      bdev.store.lvols.delete(bdev.uuid);
      bdev.store.names.delete(bdev.blob.name);
    }
    this.notify("bdev_unregister", bdev);
  }

  unloadStore(loaded: LoadedStore): void {
    for (const lvol of loaded.lvols.values()) this.unregister(lvol);
    this.stores.delete(loaded.store.uuid);
    this.storeNames.delete(loaded.store.name);
    loaded.base.loaded = undefined;
  }

  dropNamespace(nqn: string, bdev: Bdev): void {
    const subsystem = this.subsystems.get(nqn);
    for (const [nsid, namespace] of subsystem?.namespaces ?? []) {
      if (namespace.bdev === bdev) subsystem?.namespaces.delete(nsid);
    }
    bdev.exportedBy = undefined;
    if (subsystem !== undefined) announceNamespaces(subsystem);
  }

  removeSubsystem(subsystem: Subsystem): void {
    for (const { bdev } of subsystem.namespaces.values()) bdev.exportedBy = undefined;
    this.subsystems.delete(subsystem.nqn);
    dropHosts(subsystem, () => true);
  }
}

function noLimits(): RateLimits {
  return { rwIos: 0, rwMbytes: 0, readMbytes: 0, writeMbytes: 0 };
}

/** Clones of a snapshot, among all blobs of its store. */
export function clonesOf(store: Store, uuid: string): Blob[] {
  return [...store.blobs.values()].filter((blob) => blob.parent === uuid);
}
