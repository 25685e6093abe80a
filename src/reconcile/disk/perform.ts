// Performs the steps of disk-init. Each holds its disk's lane exclusively: attach, detach and the
// creation of an lvstore must never overlap a change of an lvol on it
// (docs/spdk-contract.md#overlaps). A detach holds the lanes of all disks that go with the controller.
import { trace } from "@opentelemetry/api";
import type { Logger } from "pino";
import { addressFamily } from "../../model/address.ts";
import { rateOf } from "../../model/zeroing.ts";
import type { DiskStatusPatch, DiskRow } from "../../model/disk.ts";
import type { Config } from "../../config.ts";
import type { PendingContext } from "../../model/pending-op.ts";
import type { Rows } from "../../store/rows.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import { attempt, retryOf } from "../engine/attempt.ts";
import type { ClaimMemory } from "../controller/claim-memory.ts";
import { changing, type ChangeContext } from "./changing.ts";
import { exportsLeft } from "./exports-left.ts";
import { keptOnFabric, lanesOn } from "./fabric-use.ts";
import { performWipe, type WipeContext } from "./perform-wipe.ts";
import type { DiskView } from "./view.ts";
import { disksOnTarget } from "../target/disks-on-target.ts";
import type { StepResult } from "../engine/kind.ts";
import type { ScanOptions } from "../target/full-scan.ts";
import type { Lane, LaneKey, Lanes } from "../engine/lanes.ts";
import type { Observed } from "../target/observed.ts";
import type * as steps from "../steps.ts";
import type { Slices } from "./slices.ts";
import { observeSlices, pinFreeSpace, zeroSlice } from "./zero-free-space.ts";

export type DiskStepContext = ChangeContext & {
  readonly config: Pick<Config, "zeroingSharePercent" | "fabricDisks">;
  readonly spdk: SpdkClient;
  readonly rows: Rows;
  readonly observed: Observed;
  readonly lanes: Lanes;
  readonly slices: Slices;
  readonly claims: Pick<ClaimMemory, "end">;
  readonly pending: (now: Date) => PendingContext;
  readonly log: Logger;
  readonly writer: {
    readonly recordDisk: (
      row: Pick<DiskRow, "id" | "generation">,
      patch: DiskStatusPatch,
    ) => Promise<boolean>;
  };
  readonly scanDisks: () => Promise<void>;
  readonly scanAll: (options: ScanOptions) => Promise<void>;
};

type Act = { readonly context: DiskStepContext; readonly view: DiskView; readonly lane: Lane };

export async function performDiskStep(
  context: DiskStepContext & WipeContext,
  view: DiskView,
  step: steps.DiskStep,
): Promise<StepResult> {
  if (step.kind === "wipe-disk") return await performWipe(context, view.row, step);
  if (step.kind === "record-disk") {
    const written = await context.writer.recordDisk(view.row, step.patch);
    return written
      ? { kind: "ok" }
      : { kind: "retry", message: "the intent changed before the status was committed" };
  }
  const unknown = context.outcomes.of(view.row.id);
  if (unknown !== undefined) {
    const { method, since } = unknown;
    const message = `waits for the outcome of ${method}, whose answer was lost at ${since.toISOString()}`;
    return { kind: "retry", message, unanswered: "not-sent" };
  }
  if (step.kind === "attach-disk") return await attach(context, view, step);
  if (step.kind === "observe-slices") return await observeSlices({ context, row: view.row }, step);
  if (step.kind === "zero-slice") return await zeroSliceInLane(context, view, step);
  const others = step.kind === "detach-disk" ? lanesOn(context, step.controllerName) : [];
  return await inLane(context, view, (lane) => act({ context, view, lane }, step), others);
}

/** Runs `work` with the lanes of the disk and of those that go with it held exclusively. */
function inLane<T>(
  { lanes }: DiskStepContext,
  { row }: DiskView,
  work: (lane: Lane) => Promise<T>,
  others: readonly LaneKey[] = [],
): Promise<T> {
  const own = { kind: "disk", disk: row.id, mode: "exclusive" } as const;
  const isOwn = (key: LaneKey) => key.kind === "disk" && key.disk === row.id;
  return lanes.run([own, ...others.filter((key) => !isOwn(key))], (lane) => {
    trace.getActiveSpan()?.addEvent("lanes held");
    return work(lane);
  });
}

/** A slice is an lvol of its own: the volumes of the disk change meanwhile. */
function zeroSliceInLane(
  context: DiskStepContext,
  { row }: DiskView,
  step: steps.ZeroSlice,
): Promise<StepResult> {
  const { lanes } = context;
  return lanes.run([{ kind: "family", disk: row.id, root: step.name }], (lane) => {
    trace.getActiveSpan()?.addEvent("lanes held");
    return zeroSlice({ context, row, lane }, step);
  });
}

type LaneStep = Exclude<
  steps.DiskStep,
  steps.RecordDisk | steps.AttachDisk | steps.ObserveSlices | steps.ZeroSlice | steps.WipeDisk
>;

function act(on: Act, step: LaneStep): Promise<StepResult> {
  switch (step.kind) {
    case "create-store":
      return createStore(on, step);
    case "detach-disk":
      return detach(on, step);
    case "rename-store":
      return renameStore(on, step);
    case "pin-free-space":
      return pinFreeSpace({ context: on.context, row: on.view.row, lane: on.lane }, step);
  }
}

async function attach(
  context: DiskStepContext,
  view: DiskView,
  step: steps.AttachDisk,
): Promise<StepResult> {
  const { spdk, observed } = context;
  const { row } = view;
  const { controllerName: name, trtype, traddr, trsvcid, subnqn } = step;
  const adrfam = addressFamily(traddr);
  const attached = await inLane(
    context,
    view,
    (lane) =>
      changing(
        { context, row, lane },
        spdk.bdevNvmeAttachController({ name, trtype, traddr, trsvcid, subnqn, adrfam }),
      ),
    // Two equal attaches at once, of two disks on one controller, give it two paths.
    [{ kind: "disk", disk: name, mode: "exclusive" }],
  );
  if (attached.kind === "open") return retryOf([attached]);
  // SPDK refuses a controller or an address that is attached already, so a refusal decides nothing:
  // the disks on the target are listed.
  const { incarnation } = observed;
  const scanFailure = await scanAfterAttach(context, row, attached.kind === "ok");
  if (scanFailure !== undefined) return { kind: "retry", message: scanFailure };
  // The scan counts only if the target is still the incarnation that the disk was attached in.
  if (incarnation === undefined || observed.incarnation !== incarnation)
    return { kind: "retry", message: "the SPDK target disconnected after the attach" };
  if (observed.disk(row.id) !== undefined) return { kind: "ok" };
  if (attached.kind === "refused") return retryOf([attached]);
  return await inLane(
    context,
    view,
    (lane) => detachOtherDisk({ context, view, lane }, name),
    lanesOn(context, name),
  );
}

/**
 * Reads what the attach brought: the disks, and all lvols where an lvstore was expected or is
 * loaded. Resolves to why that failed, or to undefined.
 */
async function scanAfterAttach(
  context: DiskStepContext,
  row: DiskRow,
  attached: boolean,
): Promise<string | undefined> {
  const { observed, scanDisks, scanAll } = context;
  const expected = attached && row.lvsUuid !== undefined;
  try {
    // The attach of a missing disk is retried forever: a failed one must not cost a full scan.
    if (!expected) await scanDisks();
    if (expected || observed.disk(row.id)?.store !== undefined) {
      await scanAll({ sizes: true, subsystems: false });
    }
    return undefined;
  } catch (error) {
    return `cannot list the disks after the attach: ${error instanceof Error ? error.message : ""}`;
  }
}

/**
 * The attach succeeded and the disk was not found: another disk has its address, or its namespace is not there.
 * Detaches what is there, unless a disk of this node needs it.
 */
async function detachOtherDisk({ context, view, lane }: Act, name: string): Promise<StepResult> {
  const { spdk, log } = context;
  const { row } = view;
  const nsids = new Set([row.nsid, ...context.config.fabricDisks.map(({ nsid }) => nsid)]);
  const { disks: found } = await disksOnTarget(spdk, nsids);
  // The scan after the attach was too early: the disk has appeared since.
  if (found.some(({ id }) => id === row.id))
    return { kind: "retry", message: "the disk appeared after it was looked for" };
  const other = found.find(
    ({ controllerName, nsid }) => controllerName === name && nsid === row.nsid,
  );
  const message =
    other === undefined
      ? `NO_NAMESPACE: its controller has no namespace ${row.nsid}`
      : `SERIAL_MISMATCH: found ${other.serial} instead of ${row.serial}`;
  const kept = keptOnFabric(context, name, { besides: [row.id], found });
  if (kept !== undefined) return { kind: "retry", message };
  log.error(
    { disk: row.id, serial: row.serial, found: other?.serial },
    "a disk is not found at its address, detaching what is there",
  );
  const detached = await changing({ context, row, lane }, spdk.bdevNvmeDetachController(name));
  if (detached.kind === "open") return retryOf([detached]);
  return { kind: "retry", message };
}

async function detach(on: Act, { controllerName: name }: steps.DetachDisk): Promise<StepResult> {
  const { context, view } = on;
  const { spdk, observed, rows } = context;
  // As committed by now: an intent may have come while the step waited for its lane.
  const row = rows.disk(view.row.id) ?? view.row;
  if (row.wanted !== "release") return { kind: "retry", message: "it is to be taken again" };
  const left = exportsLeft({ rows, observed }, row);
  if (left > 0) return { kind: "retry", message: `${left} exports of it are not gone yet` };
  // Also the grace may have begun anew while the lanes were waited for.
  const kept = keptOnFabric(context, name, { besides: [row.id] });
  if (kept !== undefined) return kept;
  const detached = await changing({ ...on, row }, spdk.bdevNvmeDetachController(name));
  const isGone =
    detached.kind === "ok" || (detached.kind === "refused" && detached.error.kind === "absent");
  if (!isGone) return retryOf([detached]);
  for (const { id } of rows.disks()) {
    if (observed.disk(id)?.controllerName === name) observed.setDisk(id, undefined);
  }
  return { kind: "ok" };
}

/** A lost answer does no harm: what the store is called is read back. */
async function renameStore(on: Act, step: steps.RenameStore): Promise<StepResult> {
  const { spdk, observed, scanAll } = on.context;
  const { row, onTarget } = on.view;
  const { lvsUuid, oldName, newName } = step;
  const renamed = await changing({ ...on, row }, spdk.bdevLvolRenameLvstore({ oldName, newName }));
  if (renamed.kind === "open") return retryOf([renamed]);
  const store = await attempt(spdk.getLvstore({ uuid: lvsUuid }));
  if (store.kind !== "ok" || store.value?.name !== newName || onTarget === undefined) {
    return renamed.kind === "ok"
      ? { kind: "retry", message: `lvstore ${oldName} was renamed and is not found as ${newName}` }
      : retryOf([renamed]);
  }
  observed.setDisk(row.id, { ...onTarget, store: store.value });
  // All lvols in it have other aliases now.
  await scanAll({ sizes: true, subsystems: false });
  return { kind: "ok" };
}

async function createStore(on: Act, step: steps.CreateStore): Promise<StepResult> {
  const { spdk, observed, claims, log, writer } = on.context;
  const { row, onTarget } = on.view;
  const { bdevName, storeName, clusterBytes } = step;
  log.info(
    { disk: row.id, bdev: bdevName, store: storeName },
    "creating lvstore (formats the disk)",
  );
  const startMs = performance.now();
  const made = await changing(
    { ...on, row },
    spdk.bdevLvolCreateLvstore({
      bdevName,
      lvsName: storeName,
      clusterBytes,
      clearMethod: "write_zeroes",
    }),
  );
  // The lvstore may exist from this call, or from an earlier one whose answer was lost: read it
  // back.
  const store = await attempt(spdk.getLvstore({ name: storeName }));
  if (store.kind === "ok" && store.value?.baseBdev === bdevName && onTarget !== undefined) {
    observed.setDisk(row.id, { ...onTarget, store: store.value });
    claims.end(row.id);
    // The whole disk was zeroed: what later zeroing of it takes is known from the start.
    const zeroingRate = rateOf(onTarget.sizeBytes, performance.now() - startMs);
    if (made.kind === "ok") await writer.recordDisk(row, { zeroingRate });
    return { kind: "ok" };
  }
  if (made.kind === "ok")
    return {
      kind: "retry",
      message: `lvstore ${storeName} was created and is not found on ${bdevName}`,
    };
  return retryOf([made]);
}
