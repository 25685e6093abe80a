// Which disks of the node were not read although a store is expected on them: what lies there is not known, and
// nothing of it counts as absent. Pure.
import type { FabricDisk } from "../config-disks.ts";
import type { DiskRow } from "../model/disk.ts";
import type { NvmeFunction } from "../sysfs/nvme.ts";
import type { Found } from "./found.ts";

export type UnreadDisk = {
  /** Undefined: it has no row. */
  readonly id?: string;
  /** Undefined: vfio-pci shows none. */
  readonly serial?: string;
  readonly address: string;
  readonly why: string;
};

export type Expected = {
  /** The disks of this node that have a row. */
  readonly rows: readonly DiskRow[];
  readonly fabricDisks: readonly FabricDisk[];
  /** The NVMe functions of this machine. */
  readonly functions: readonly NvmeFunction[];
};

/** found: once SPDK examines no bdev any more. A configured disk without a store is blank then. */
export function unreadDisks(
  { rows, fabricDisks, functions }: Expected,
  { disks }: Pick<Found, "disks">,
): readonly UnreadDisk[] {
  const withStore = rows.filter(({ lvsUuid, wanted }) => {
    return lvsUuid !== undefined && wanted !== "release";
  });
  const ofRows = withStore.flatMap(({ id, serial, address, lvsUuid }) => {
    const found = disks.find((disk) => disk.id === id);
    if (found?.store !== undefined) return [];
    const why =
      found === undefined
        ? notAttached(serial, functions)
        : `attached, but its lvstore ${lvsUuid} is not loaded`;
    return [{ id, serial, address, why }];
  });
  const ofConfig = fabricDisks
    .filter((entry) => !disks.some((disk) => isSame(entry, disk)))
    .filter((entry) => !rows.some((row) => row.lvsUuid !== undefined && isSame(entry, row)))
    .map(({ serial, traddr, trsvcid }) => {
      return { serial, address: `${traddr}:${trsvcid}`, why: "not attached" };
    });
  const ofKernel = functions
    .filter(({ driver }) => driver === "vfio-pci")
    .filter(({ pciAddress }) => !disks.some(({ address }) => address === pciAddress))
    .map(({ pciAddress: address }) => ({ address, why: "on vfio-pci, and not attached" }));
  return [...ofRows, ...ofConfig, ...ofKernel];
}

type Identity = Pick<FabricDisk, "serial" | "nsid">;

function isSame(a: Identity, b: Identity): boolean {
  return a.serial === b.serial && a.nsid === b.nsid;
}

function notAttached(serial: string, functions: readonly NvmeFunction[]): string {
  const at = functions.find(({ controllers }) => controllers.some((one) => one.serial === serial));
  return at === undefined ? "not attached" : `not attached: it is on driver ${at.driver}`;
}

export type Reckoned = {
  /** Named by --without. */
  readonly leftOut: readonly UnreadDisk[];
  readonly unread: readonly UnreadDisk[];
};

/** without: ids, serials and addresses. Throws if one of them names no disk that was not read. */
export function reckon(all: readonly UnreadDisk[], without: readonly string[]): Reckoned {
  const unknown = without.find((name) => !all.some((disk) => namesOf(disk).includes(name)));
  if (unknown !== undefined) {
    throw new Error(`--without ${unknown}: no disk that was not read is called so`);
  }
  const isLeftOut = (disk: UnreadDisk) => namesOf(disk).some((name) => without.includes(name));
  const unread = all.filter((disk) => !isLeftOut(disk));
  // A function shows no serial: it is listed only where no row says which disk it is.
  const rowAt = new Set(unread.flatMap(({ id, address }) => (id === undefined ? [] : [address])));
  return {
    leftOut: all.filter(isLeftOut),
    unread: unread.filter(({ serial, address }) => serial !== undefined || !rowAt.has(address)),
  };
}

export function unreadText(disk: UnreadDisk): string {
  return `${namesOf(disk).join("  ")}: ${disk.why}`;
}

/** What it may be called by. */
function namesOf({ id, serial, address }: UnreadDisk): readonly string[] {
  return [id, serial, address].filter((name) => name !== undefined);
}

/** What was not read counts for nothing: no rows are written, and the hold stays. */
export class NotRead extends Error {
  constructor(unread: readonly UnreadDisk[]) {
    const lines = unread.map((disk) => `  ${unreadText(disk)}`);
    const head = "these disks were not read; nothing was written, and the hold stays:";
    super([head, ...lines, CURE].join("\n"));
    this.name = "NotRead";
  }
}

export const CURE =
  `"storage-node rebuild --attach" attaches what is configured or on vfio-pci; "--without" and the id, the ` +
  `serial or the address leaves out a disk that is lost`;
