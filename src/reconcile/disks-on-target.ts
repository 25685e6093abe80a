// Which of our disks the target has, under whatever controller name: recognised by serial, model and
// namespace as SPDK reads them back, never by name or address alone.
import { diskId } from "../model/identity.ts";
import type { SpdkClient } from "../spdk/client.ts";
import type { Controller, NvmeBdev } from "../spdk/replies-bdev.ts";
import type { Lvstore } from "../spdk/replies-lvol.ts";
import type { DiskOnTarget } from "./seen.ts";

type Reads = Pick<SpdkClient, "bdevNvmeGetControllers" | "bdevLvolGetLvstores" | "getBdev">;

export type FoundDisk = DiskOnTarget & {
  readonly id: string;
  readonly nsid: number;
  readonly trtype: "PCIe" | "TCP" | "RDMA";
  /** PCI address, or where the fabric's target listens. */
  readonly address: string;
};

export type FoundDisks = {
  readonly found: readonly FoundDisk[];
  /**
   * Ids of disks that were being attached, or given a store, when this was read: a load takes minutes,
   * and a store that is not there yet says nothing.
   */
  readonly unsettled: ReadonlySet<string>;
};

/** Every namespace of every controller, asked by name all at once. */
export async function disksOnTarget(spdk: Reads, nsids: ReadonlySet<number>): Promise<FoundDisk[]> {
  const [controllers, stores] = await Promise.all([
    spdk.bdevNvmeGetControllers(),
    spdk.bdevLvolGetLvstores(),
  ]);
  const names = controllers.flatMap((controller) =>
    usable(controller) ? [...nsids].map((nsid) => ({ controller, nsid })) : [],
  );
  const found = await Promise.all(
    names.map(({ controller, nsid }) => findDisk(spdk, { name: controller.name, nsid, stores })),
  );
  return found.filter((disk) => disk !== undefined);
}

function usable(controller: Controller): boolean {
  return controller.paths.some(({ state }) => state === "enabled" || state === "resetting");
}

/** One namespace of one controller, undefined if there is none. */
async function findDisk(
  spdk: Pick<SpdkClient, "getBdev">,
  of: { readonly name: string; readonly nsid: number; readonly stores: readonly Lvstore[] },
): Promise<FoundDisk | undefined> {
  const bdev = await spdk.getBdev(`${of.name}n${of.nsid}`);
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
