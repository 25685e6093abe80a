// Which of our disks the target has, under whatever controller name: recognised by serial, model
// and namespace as SPDK reads them back, never by name or address alone.
import { diskId } from "../../model/identity.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import type { Bdev, Controller, NvmeBdev } from "../../spdk/replies-bdev.ts";
import type { Lvstore } from "../../spdk/replies-lvol.ts";
import type { ObservedDisk } from "./observed-disk.ts";
import type { ReadMark } from "./observed.ts";

type Reads = Pick<SpdkClient, "bdevNvmeGetControllers" | "bdevLvolGetLvstores" | "getBdev">;

export type FoundDisk = ObservedDisk & {
  readonly id: string;
  readonly nsid: number;
  readonly trtype: "PCIe" | "TCP" | "RDMA";
  /** PCI address, or where the fabric's target listens. */
  readonly address: string;
};

export type FoundDisks = {
  readonly found: readonly FoundDisk[];
  /** All that are attached, of disks or not. */
  readonly controllers: readonly Controller[];
  /**
   * Ids of disks that were being attached, or given a store, when this was read: a load takes
   * minutes, and a store that is not there yet says nothing.
   */
  readonly inTransition: ReadonlySet<string>;
  /** When the reads began (Observed.beginFreeRead). */
  readonly freeRead: ReadMark;
  /** How many doubts there had been (TargetListings.doubt); undefined: it was read within the grace. */
  readonly after: number | undefined;
};

/**
 * Every namespace of every controller, asked by name all at once, or found in a list of all bdevs
 * that is being read anyway.
 */
export async function disksOnTarget(
  spdk: Reads,
  nsids: ReadonlySet<number>,
  listing?: Promise<readonly Bdev[]>,
): Promise<{ readonly disks: FoundDisk[]; readonly controllers: readonly Controller[] }> {
  const [controllers, stores, bdevs] = await Promise.all([
    spdk.bdevNvmeGetControllers(),
    spdk.bdevLvolGetLvstores(),
    listing,
  ]);
  const listed = bdevs && new Map(bdevs.map((bdev) => [bdev.name, bdev]));
  const bdevNamed = async (name: string) => (listed ? listed.get(name) : await spdk.getBdev(name));
  const names = controllers.flatMap((controller) =>
    holdsDisks(controller) ? [...nsids].map((nsid) => ({ controller, nsid })) : [],
  );
  const found = await Promise.all(
    names.map(({ controller: { name }, nsid }) => findDisk(bdevNamed, { name, nsid, stores })),
  );
  return { disks: found.filter((disk) => disk !== undefined), controllers };
}

/**
 * Whether what it shows is attached. A PCIe function that SPDK has given up holds its bdevs, stores and exports until
 * it is detached; a fabric disk is attached anew.
 */
function holdsDisks({ paths }: Controller): boolean {
  return paths.some(
    ({ state, trid }) =>
      state === "enabled" ||
      state === "resetting" ||
      (state === "failed" && trid.trtype?.toUpperCase() === "PCIE"),
  );
}

/** One namespace of one controller, undefined if there is none. */
async function findDisk(
  bdevNamed: (name: string) => Promise<Bdev | undefined>,
  of: { readonly name: string; readonly nsid: number; readonly stores: readonly Lvstore[] },
): Promise<FoundDisk | undefined> {
  const bdev = await bdevNamed(`${of.name}n${of.nsid}`);
  if (bdev?.kind !== "nvme") return undefined;
  const identity = identityOf(bdev);
  if (identity === undefined) return undefined;
  const store = of.stores.find(({ baseBdev }) => baseBdev === bdev.name);
  return {
    id: diskId(identity),
    ...identity,
    ...placeOf(bdev),
    controllerName: of.name,
    bdevName: bdev.name,
    sizeBytes: bdev.sizeBytes,
    blockSize: bdev.blockSize,
    store,
  };
}

function placeOf({ paths: [path] }: NvmeBdev): Pick<FoundDisk, "trtype" | "address"> {
  const { trtype = "", traddr = "", trsvcid } = path?.trid ?? {};
  if (trtype.toUpperCase() === "PCIE") return { trtype: "PCIe", address: traddr };
  return {
    trtype: trtype.toUpperCase() === "RDMA" ? "RDMA" : "TCP",
    address: `${traddr}:${trsvcid}`,
  };
}

/** SPDK pads serial and model with blanks on some paths; the kernel's attribute does too. */
function identityOf(
  bdev: NvmeBdev,
): { readonly serial: string; readonly model: string; readonly nsid: number } | undefined {
  const path = bdev.paths[0];
  if (path === undefined) return undefined;
  return { serial: path.serialNumber.trim(), model: path.modelNumber.trim(), nsid: path.nsid };
}
