// Reads what rows can be rebuilt from: the disks, lvstores and lvols of a target. It never changes
// the target, except that attachDisks attaches controllers.
import type { Config } from "../config.ts";
import { addressFamily } from "../model/address.ts";
import { controllerName, isUuid, parseStoreName } from "../model/identity.ts";
import type { FoundLvol, FoundSubsystem } from "../model/found-lvol.ts";
import { disksOnTarget, type FoundDisk } from "../reconcile/target/disks-on-target.ts";
import { foundLvols } from "../reconcile/target/found-lvols.ts";
import type { SpdkClient } from "../spdk/client.ts";
import { SpdkError, SpdkUnknownOutcome } from "../spdk/errors.ts";
import { WAIT_MS } from "../spdk/rpc.ts";
import type { UnknownLvol } from "../store/tombstones.ts";
import type { Kernel } from "../sysfs/kernel.ts";
import { listNvme } from "../sysfs/nvme.ts";

export type Found = {
  readonly disks: readonly FoundDisk[];
  readonly lvols: readonly FoundLvol[];
  readonly subsystems: readonly FoundSubsystem[];
};

/**
 * Attaches the disks that `serve` would attach: the configured fabric disks, and local NVMe
 * functions bound to vfio-pci. Returns the errors of those that failed; those that are attached already did not.
 */
export async function attachDisks(
  spdk: SpdkClient,
  kernel: Kernel,
  { fabricDisks }: Pick<Config, "fabricDisks">,
): Promise<readonly string[]> {
  const { functions } = await listNvme(kernel);
  const local = functions
    .filter(({ driver }) => driver === "vfio-pci")
    .map(({ pciAddress: traddr }) => ({ trtype: "PCIe" as const, traddr }));
  const attached = await Promise.allSettled(
    [...fabricDisks, ...local].map(async (disk) => {
      const name = controllerName(disk);
      if (disk.trtype === "PCIe") {
        await spdk.bdevNvmeAttachController({ name, trtype: "PCIe", traddr: disk.traddr });
        return;
      }
      const { trtype, traddr, trsvcid, subnqn } = disk;
      const adrfam = addressFamily(traddr);
      await spdk.bdevNvmeAttachController({ name, trtype, traddr, trsvcid, subnqn, adrfam });
    }),
  );
  return attached.flatMap((result) =>
    result.status === "fulfilled" || isThere(result.reason) ? [] : [String(result.reason)],
  );
}

function isThere(error: unknown): boolean {
  return error instanceof SpdkError && error.kind === "exists";
}

/** A store that is being loaded is not read yet; after a crash that takes minutes. Throws if it takes too long. */
export async function storesLoaded(
  spdk: Pick<SpdkClient, "bdevWaitForExamine">,
  waitMs: number = WAIT_MS.load,
): Promise<void> {
  try {
    await spdk.bdevWaitForExamine({ waitMs });
  } catch (cause) {
    if (!(cause instanceof SpdkUnknownOutcome) || cause.reason === "disconnected") throw cause;
    const message = `the target still loads lvstores after ${waitMs / 1_000} s: run it again later`;
    throw new Error(message, { cause });
  }
}

/** The lvols in stores of disks that were found, as tombstones are looked up by. */
export function unknownLvols({ disks, lvols }: Found): readonly UnknownLvol[] {
  return lvols.flatMap(({ uuid, name, storeUuid }) => {
    const store = disks.find((disk) => disk.store?.uuid === storeUuid)?.store;
    const diskId = store && parseStoreName(store.name)?.diskId;
    return diskId === undefined
      ? []
      : [{ uuid, nameAsId: isUuid(name) ? name : undefined, diskId }];
  });
}

export async function lookAtTarget(
  spdk: SpdkClient,
  { fabricDisks }: Pick<Config, "fabricDisks">,
): Promise<Found> {
  const nsids = new Set([1, ...fabricDisks.map(({ nsid }) => nsid)]);
  const [disks, found] = await Promise.all([
    disksOnTarget(spdk, nsids).then((onTarget) => onTarget.disks),
    foundLvols(spdk, spdk.bdevLvolGetLvols()),
  ]);
  return { disks, ...found };
}
