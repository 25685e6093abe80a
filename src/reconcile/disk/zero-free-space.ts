// Zeroes the free clusters of an lvstore (docs/architecture.md#zeroing-of-free-space): thick lvols, the
// slices, take all of them at one moment, and each is cleared by its delete. From that moment on, what
// is free is clean, as clusters become free by deletes that clear them only.
//
// It never takes slices that an earlier agent has left for all that was free: they are only kept until they
// are cleared, too.
import type { DiskRow, DiskStatusPatch } from "../../model/disk.ts";
import type { Config } from "../../config.ts";
import { restMs, restSizes, sliceSizes } from "../../model/zeroing.ts";
import {
  ZEROING_FIRST_SLICES,
  ZEROING_MEASURED_BYTES,
  ZEROING_RESERVE_BYTES,
  ZEROING_SLICE_BYTES,
  ZEROING_SLICES,
} from "../../limits.ts";
import type { Rows } from "../../store/rows.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import { WAIT_MS } from "../../spdk/rpc.ts";
import { attempt, retryOf, type Attempt } from "../engine/attempt.ts";
import { changing, type ChangeContext } from "./changing.ts";
import type { StepResult } from "../engine/kind.ts";
import type { Lane } from "../engine/lanes.ts";
import type * as steps from "../steps.ts";
import type { Slice, Slices } from "./slices.ts";

export type ZeroFreeSpaceContext = ChangeContext & {
  readonly config: Pick<Config, "zeroingSharePercent">;
  readonly spdk: SpdkClient;
  readonly slices: Slices;
  readonly rows: Pick<Rows, "disk">;
  readonly writer: {
    readonly recordDisk: (
      row: Pick<DiskRow, "id" | "generation">,
      patch: DiskStatusPatch,
    ) => Promise<boolean>;
  };
};

type On = { readonly context: ZeroFreeSpaceContext; readonly row: DiskRow; readonly lane: Lane };

const LIMITS = {
  sliceBytes: ZEROING_SLICE_BYTES,
  slices: ZEROING_SLICES,
  reserveBytes: ZEROING_RESERVE_BYTES,
  firstSlices: ZEROING_FIRST_SLICES,
};

/** Reads which slices there are: of this run of zeroing, or left over from an earlier one. */
export async function observeSlices(
  { context, row }: Pick<On, "context" | "row">,
  { lvsUuid }: Pick<steps.ObserveSlices, "lvsUuid">,
): Promise<StepResult> {
  const listed = await attempt(context.spdk.getLvols({ uuid: lvsUuid }));
  if (listed.kind !== "ok") return retryOf([listed]);
  if (listed.value === undefined) return notLoaded(lvsUuid);
  context.slices.found(row.id, listed.value, row.clusterBytes);
  return { kind: "ok" };
}

/**
 * Runs with the disk's lane held exclusively. In the end every cluster that was free is held by a slice,
 * or was handed to a volume before that moment, or is clean.
 */
export async function pinFreeSpace(on: On, step: steps.PinFreeSpace): Promise<StepResult> {
  const { context, row } = on;
  const { slices, writer } = context;
  const startTime = new Date();
  slices.beginMeasuring(row.id);
  const pinned = await pin(on, step);
  if (pinned.kind !== "ok") return forgetting(on, pinned);
  const { zeroedBytes, totalBytes } = slices.progress(row.id);
  const written = await writer.recordDisk(row, {
    zeroing: { zeroedBytes, totalBytes, startTime },
  });
  return written
    ? { kind: "ok" }
    : { kind: "retry", message: "the intent changed before the status was committed" };
}

/**
 * Slices over all that is free but a reserve; then the lowest of them is zeroed, and half of it, held by a
 * filler meanwhile, is free at once when all the rest is taken.
 */
async function pin(on: On, step: steps.PinFreeSpace): Promise<StepResult> {
  const { context, row } = on;
  const { slices } = context;
  const { lvsUuid } = step;
  const observed = await observeSlices(on, step);
  if (observed.kind !== "ok") return observed;
  const left = (slices.of(row.id) ?? []).filter(({ isFiller }) => isFiller);
  const gone = await Promise.all(left.map((one) => deleteSlice(on, lvsUuid, one)));
  const failed = failureOf(gone);
  if (failed !== undefined) return failed;
  const store = await readFree(on, lvsUuid);
  if (store.kind !== "ok") return store.result;
  const { free, clusterBytes } = store;
  const sizes = sliceSizes(free, clusterBytes, LIMITS);
  const names = slices.newNames(row.id, sizes.length);
  const made = await Promise.all(
    names.map((name, index) => createSlice(on, lvsUuid, name, (sizes[index] ?? 1n) * clusterBytes)),
  );
  const open = made.find(({ kind }) => kind === "open");
  if (open !== undefined) return retryOf([open]);
  const [first] = made;
  const lowest =
    first?.kind === "ok" && sizes.length > 1
      ? slices.of(row.id)?.find(({ uuid }) => uuid === first.value)
      : undefined;
  const filled = lowest && (await fill(on, { lvsUuid, clusterBytes, lowest }));
  if (filled?.kind === "failed") return filled.result;
  return await pinRest(on, { lvsUuid, clusterBytes, filler: filled?.filler });
}

type Filled =
  | { readonly kind: "filled"; readonly filler: Slice | undefined }
  | { readonly kind: "failed"; readonly result: StepResult };

/**
 * Zeroes the slice of the lowest clusters, and holds half of them by a filler, which is not cleared when it is
 * deleted: it must hold clean clusters only. SPDK takes the lowest free cluster first, nothing else changes on
 * the disk, and hosts only take clusters. So it does as long as no fewer are free afterwards than were not
 * zeroed before: those that hosts took meanwhile were of the slice, too. Otherwise there is no filler.
 */
async function fill(
  on: On,
  {
    lvsUuid,
    clusterBytes,
    lowest,
  }: { readonly lvsUuid: string; readonly clusterBytes: bigint; readonly lowest: Slice },
): Promise<Filled> {
  const { spdk, slices } = on.context;
  const before = await readFree(on, lvsUuid);
  if (before.kind !== "ok") return before;
  const zeroed = await zeroMeasured(on, lvsUuid, lowest);
  if (zeroed.kind !== "ok") return { kind: "failed", result: zeroed };
  const sizeBytes = (lowest.bytes / clusterBytes / 2n) * clusterBytes;
  if (sizeBytes === 0n) return { kind: "filled", filler: undefined };
  const lvolName = slices.newFillerName(on.row.id);
  const lvol = { lvsUuid, lvolName, sizeBytes, thin: false, clearMethod: "none" } as const;
  const made = await changing(on, spdk.bdevLvolCreate(lvol));
  if (made.kind === "open") return { kind: "failed", result: retryOf([made]) };
  if (made.kind !== "ok") return { kind: "filled", filler: undefined };
  const filler = { uuid: made.value, name: lvolName, bytes: sizeBytes, isFiller: true };
  slices.add(on.row.id, filler);
  const after = await readFree(on, lvsUuid);
  if (after.kind !== "ok") return after;
  if (after.free >= before.free) return { kind: "filled", filler };
  const deleted = await deleteSlice(on, lvsUuid, filler);
  if (deleted.kind !== "ok") return { kind: "failed", result: deleted };
  return { kind: "filled", filler: undefined };
}

async function readFree({ context }: Pick<On, "context">, lvsUuid: string) {
  const store = await attempt(context.spdk.getLvstore({ uuid: lvsUuid }));
  if (store.kind !== "ok") return { kind: "failed", result: retryOf([store]) } as const;
  if (store.value === undefined) return { kind: "failed", result: notLoaded(lvsUuid) } as const;
  const { freeClusters: free, clusterBytes } = store.value;
  return { kind: "ok", free, clusterBytes } as const;
}

/**
 * Takes what is still free, and hands out clean clusters at once: while nothing is free, writes of hosts
 * to thin volumes fail. Others take or free clusters meanwhile, so it is tried a few times.
 */
async function pinRest(
  on: On,
  {
    lvsUuid,
    clusterBytes,
    filler,
  }: {
    readonly lvsUuid: string;
    readonly clusterBytes: bigint;
    readonly filler: Slice | undefined;
  },
): Promise<StepResult> {
  const { context, row } = on;
  const { spdk, slices } = context;
  const single = (slices.of(row.id) ?? []).filter(({ bytes }) => bytes === clusterBytes);
  // The filler goes with the first look: deleting it takes no time, and ends the time without free clusters.
  const first = [filler, ...single.filter(({ isFiller }) => !isFiller)].filter(
    (one) => one !== undefined,
  );
  const release = (some: readonly Slice[]) =>
    Promise.all(some.map((one) => deleteSlice(on, lvsUuid, one)));
  let last: Attempt<unknown> | undefined;
  for (let turn = 0; turn < ZEROING_FIRST_SLICES; turn += 1) {
    const before = await attempt(spdk.getLvstore({ uuid: lvsUuid }));
    const free = before.kind === "ok" ? (before.value?.freeClusters ?? 0n) : 0n;
    const sizes = restSizes(free, ZEROING_FIRST_SLICES);
    const names = slices.newNames(row.id, sizes.length);
    const made = await Promise.all(
      names.map((name, at) => createSlice(on, lvsUuid, name, (sizes[at] ?? 1n) * clusterBytes)),
    );
    last = made.find(({ kind }) => kind !== "ok");
    if (last?.kind === "open") return retryOf([last]);
    // In one write: what is free is read before the delete takes effect.
    const [after, released] = await Promise.all([
      attempt(spdk.getLvstore({ uuid: lvsUuid })),
      release(first.splice(0, 1)),
    ]);
    if (after.kind !== "ok") return retryOf([after]);
    if (after.value === undefined) return notLoaded(lvsUuid);
    if (after.value.freeClusters === 0n) {
      return failureOf([...released, ...(await release(first))]) ?? { kind: "ok" };
    }
  }
  await release(first);
  if (last !== undefined && last.kind !== "ok") return retryOf([last]);
  return {
    kind: "retry",
    message: "free clusters are taken and freed too fast to hold all of them",
  };
}

/** Runs with the slice's family held: other lvols of the disk change meanwhile. */
export async function zeroSlice(on: On, step: steps.ZeroSlice): Promise<StepResult> {
  const { context, row } = on;
  const { slices, writer } = context;
  const slice = slices.of(row.id)?.find(({ uuid }) => uuid === step.lvolUuid);
  if (slice === undefined) return { kind: "ok" };
  const deleted = await zeroMeasured(on, step.lvsUuid, slice);
  if (deleted.kind !== "ok") return forgetting(on, deleted);
  if (row.zeroing === undefined) return { kind: "ok" };
  const left = (slices.of(row.id) ?? []).reduce((sum, { bytes }) => sum + bytes, 0n);
  const { totalBytes } = row.zeroing;
  // A commit is worth a step of a percent.
  if (slice.bytes * 100n < totalBytes) return { kind: "ok" };
  const zeroedBytes = left > totalBytes ? 0n : totalBytes - left;
  const zeroingRate = slices.rate(row.id) ?? row.zeroingRate;
  await writer.recordDisk(row, { zeroing: { ...row.zeroing, zeroedBytes }, zeroingRate });
  return { kind: "ok" };
}

/** Deletes a slice, which zeroes it, and notes how long that takes. */
async function zeroMeasured(on: On, lvsUuid: string, slice: Slice): Promise<StepResult> {
  const { context, row } = on;
  const startMs = performance.now();
  const deleted = await deleteSlice(on, lvsUuid, slice);
  if (deleted.kind !== "ok") return deleted;
  const ms = performance.now() - startMs;
  const rests = new Date(Date.now() + restMs(ms, context.config.zeroingSharePercent));
  // Of a small one the way there and back is most of the time.
  const tells = slice.bytes >= ZEROING_MEASURED_BYTES || row.zeroingRate === undefined;
  context.slices.measured(row.id, tells ? { bytes: slice.bytes, ms } : { bytes: 0n, ms: 0 }, rests);
  return deleted;
}

async function createSlice(
  on: On,
  lvsUuid: string,
  lvolName: string,
  sizeBytes: bigint,
): Promise<Attempt<string>> {
  const { spdk, slices } = on.context;
  const lvol = { lvsUuid, lvolName, sizeBytes, thin: false, clearMethod: "write_zeroes" } as const;
  const made = await changing(on, spdk.bdevLvolCreate(lvol));
  if (made.kind === "ok") {
    const bytes = sizeBytes;
    slices.add(on.row.id, { uuid: made.value, name: lvolName, bytes, isFiller: false });
  }
  return made;
}

/** ok: it is gone, and its clusters are zeroed, but those of a filler. */
async function deleteSlice(on: On, lvsUuid: string, slice: Slice): Promise<StepResult> {
  const { spdk, slices } = on.context;
  const bulk = { waitMs: WAIT_MS.bulk };
  const deleted = await changing(on, spdk.bdevLvolDelete({ lvsUuid, name: slice.uuid }, bulk));
  if (deleted.kind === "refused" && deleted.error.kind === "absent") {
    const lasting = await whyAbsent(on, lvsUuid, slice);
    if (lasting !== undefined) return lasting;
  } else if (deleted.kind !== "ok") {
    if (deleted.kind === "refused" && deleted.error.kind !== "not_permitted") await recordDoubt(on);
    return retryOf([deleted]);
  }
  slices.remove(on.row.id, slice.uuid);
  return { kind: "ok" };
}

/** Why a slice that the target does not know may still be on its disk; undefined: it is gone. */
async function whyAbsent(
  on: On,
  lvsUuid: string,
  { uuid }: Slice,
): Promise<StepResult | undefined> {
  const { spdk, slices } = on.context;
  const [bdev, store] = await Promise.all([
    attempt(spdk.getBdev(uuid)),
    attempt(spdk.getLvstore({ uuid: lvsUuid })),
  ]);
  if (bdev.kind !== "ok" || store.kind !== "ok") return retryOf([bdev, store]);
  // Asked of another incarnation, or its disk is gone: with it, all that is known of its slices.
  const known = slices.of(on.row.id)?.some((slice) => slice.uuid === uuid) === true;
  if (!known || store.value === undefined) return forgetting(on, notLoaded(lvsUuid));
  if (bdev.value === undefined) return undefined;
  return { kind: "retry", message: `lvol ${uuid} was not found, and is there` };
}

/**
 * SPDK frees the clusters before it clears them, and takes the bdev away first: the slice may be in no list, and
 * its clusters held, or free with old bytes. All that is free is held once more.
 */
async function recordDoubt({ context, row }: On): Promise<void> {
  const { rows, writer } = context;
  const now = rows.disk(row.id) ?? row;
  await writer.recordDisk(now, { freeSpace: "UNKNOWN", zeroing: undefined });
}

/** The first of them. */
function failureOf(results: readonly StepResult[]): StepResult | undefined {
  return results.find(({ kind }) => kind !== "ok");
}

/** After anything but success, which slices there are is read again. */
function forgetting({ context, row }: On, result: StepResult): StepResult {
  context.slices.forget(row.id);
  return result;
}

function notLoaded(lvsUuid: string): StepResult {
  return { kind: "retry", message: `lvstore ${lvsUuid} is not loaded` };
}
