// Zeroes the free clusters of an lvstore: creates a thick lvol of all free clusters with
// write_zeroes and deletes it, while nothing else changes the lvstore
// (docs/spdk-contract.md#zeroing-free-space).
import type { DiskRow, DiskStatusPatch } from "../../model/disk.ts";
import { ZERO_FREE_SPACE_LVOL } from "../../model/identity.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import { attempt, retryOf } from "../engine/attempt.ts";
import { changing, type ChangeContext } from "./changing.ts";
import type { StepResult } from "../engine/kind.ts";
import type { Lane } from "../engine/lanes.ts";
import type * as steps from "../steps.ts";

export type ZeroFreeSpaceContext = ChangeContext & {
  readonly spdk: SpdkClient;
  readonly writer: {
    readonly recordDisk: (
      row: Pick<DiskRow, "id" | "generation">,
      patch: DiskStatusPatch,
    ) => Promise<boolean>;
  };
};

/** Runs with the disk's lane held exclusively, from the first read to the recorded status. */
export async function zeroFreeSpace(
  { context, row, lane }: { context: ZeroFreeSpaceContext; row: DiskRow; lane: Lane },
  { lvsUuid, lvsName }: steps.ZeroFreeSpace,
): Promise<StepResult> {
  const { spdk, writer } = context;
  const change = <T>(call: Promise<T>) => changing({ context, row, lane }, call);
  // An interrupted run leaves its temporary lvol behind.
  const leftover = await attempt(spdk.getBdev(`${lvsName}/${ZERO_FREE_SPACE_LVOL}`));
  if (leftover.kind !== "ok") return retryOf([leftover]);
  if (leftover.value !== undefined) {
    const removed = await change(spdk.bdevLvolDelete({ lvsUuid, name: leftover.value.uuid }));
    if (removed.kind !== "ok") return retryOf([removed]);
  }
  const before = await attempt(spdk.getLvstore({ uuid: lvsUuid }));
  if (before.kind !== "ok") return retryOf([before]);
  if (before.value === undefined)
    return { kind: "retry", message: `lvstore ${lvsUuid} is not loaded` };
  const { freeClusters, clusterBytes } = before.value;
  if (freeClusters > 0n) {
    const made = await change(
      spdk.bdevLvolCreate({
        lvsUuid,
        lvolName: ZERO_FREE_SPACE_LVOL,
        sizeBytes: freeClusters * clusterBytes,
        thin: false,
        clearMethod: "write_zeroes",
      }),
    );
    if (made.kind !== "ok") return retryOf([made]);
    const deleted = await change(spdk.bdevLvolDelete({ lvsUuid, name: made.value }));
    if (deleted.kind !== "ok") return retryOf([deleted]);
  }
  const written = await writer.recordDisk(row, {
    freeSpace: "ZEROED",
    zeroRequestedTime: undefined,
    pendingOp: undefined,
  });
  return written
    ? { kind: "ok" }
    : { kind: "retry", message: "the intent changed before the status was committed" };
}
