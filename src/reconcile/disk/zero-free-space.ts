// Zeroes the free clusters of a store: a thick volume over all of them, made and deleted with
// write_zeroes, while nothing else changes on the store (CONTRACT section 0.2, DESIGN 3.7).
import type { DiskRow, DiskStatusPatch } from "../../model/disk.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import { attempt, retryOf, type AfterLoss } from "../engine/attempt.ts";
import type { StepResult } from "../engine/driver.ts";
import type { Lane } from "../engine/lanes.ts";
import type * as steps from "../steps.ts";

/** No volume is called that: volumes are named by their ids. Found later, it is what a kill left. */
const NAME = "zero-free-space";

export type ZeroFreeSpaceContext = {
  readonly spdk: SpdkClient;
  readonly afterLoss: AfterLoss;
  readonly writer: {
    readonly recordDisk: (
      row: Pick<DiskRow, "id" | "generation">,
      patch: DiskStatusPatch,
    ) => Promise<boolean>;
  };
};

/** Holds the disk alone, from the first look to the record. */
export async function zeroFreeSpace(
  { context, row, lane }: { context: ZeroFreeSpaceContext; row: DiskRow; lane: Lane },
  { lvsUuid, lvsName }: steps.ZeroFreeSpace,
): Promise<StepResult> {
  const { spdk, afterLoss, writer } = context;
  const trying = async <T>(call: Promise<T>) => await attempt(call, lane, afterLoss);
  const left = await trying(spdk.getBdev(`${lvsName}/${NAME}`));
  if (left.kind !== "ok") return retryOf([left]);
  if (left.value !== undefined) {
    const removed = await trying(spdk.bdevLvolDelete({ lvsUuid, name: left.value.uuid }));
    if (removed.kind !== "ok") return retryOf([removed]);
  }
  const before = await trying(spdk.getLvstore({ uuid: lvsUuid }));
  if (before.kind !== "ok") return retryOf([before]);
  if (before.value === undefined) return { kind: "retry", message: `store ${lvsUuid} is gone` };
  const { freeClusters, clusterBytes } = before.value;
  if (freeClusters > 0n) {
    const made = await trying(
      spdk.bdevLvolCreate({
        lvsUuid,
        lvolName: NAME,
        sizeBytes: freeClusters * clusterBytes,
        thin: false,
        clearMethod: "write_zeroes",
      }),
    );
    if (made.kind !== "ok") return retryOf([made]);
    const gone = await trying(spdk.bdevLvolDelete({ lvsUuid, name: made.value }));
    if (gone.kind !== "ok") return retryOf([gone]);
  }
  const written = await writer.recordDisk(row, {
    freeSpace: "ZEROED",
    zeroRequestedTime: undefined,
    pendingOp: undefined,
  });
  return written ? { kind: "ok" } : { kind: "retry", message: "the intent changed meanwhile" };
}
