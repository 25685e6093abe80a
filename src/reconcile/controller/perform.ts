// Performs the steps of controller-take; perform-claim.ts has what a claim does. Each holds the lanes of its
// controllers and of all disks on them: attach and detach must never overlap a change of an lvol there
// (docs/spdk-contract.md#overlaps).
import { trace } from "@opentelemetry/api";
import {
  hasDrive,
  type ControllerRow,
  type ControllerStatusPatch,
} from "../../model/controller.ts";
import { isInGrace, type PendingContext } from "../../model/pending-op.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import type { Kernel } from "../../sysfs/kernel.ts";
import { readDriver } from "../../sysfs/nvme.ts";
import { releaseFunctions } from "../../sysfs/vfio.ts";
import { attempt, retryOf } from "../engine/attempt.ts";
import type { StepResult } from "../engine/kind.ts";
import type { Lane, LaneKey, Lanes } from "../engine/lanes.ts";
import { changing, type ChangeContext } from "../disk/changing.ts";
import type * as steps from "../steps.ts";
import type { ScanOptions } from "../target/full-scan.ts";
import { exportsLeft } from "../disk/exports-left.ts";
import type { Observed } from "../target/observed.ts";
import { attachFailureCause } from "./attach-failure.ts";
import type { Attached } from "./attached.ts";
import { VFIO } from "./closure-rules.ts";
import { performClaim, type ClaimContext } from "./perform-claim.ts";
import type { ControllerView, Member } from "./view.ts";

export type ControllerStepContext = ChangeContext &
  ClaimContext & {
    readonly spdk: SpdkClient;
    readonly observed: Observed;
    readonly attached: Attached;
    readonly lanes: Lanes;
    readonly writer: {
      readonly recordController: (
        row: Pick<ControllerRow, "id" | "generation">,
        patch: ControllerStatusPatch,
      ) => Promise<boolean>;
    };
    readonly pending: (now: Date) => PendingContext;
    /** Who has the vfio group of a function open, looked for now. */
    readonly groupUser: (address: string) => Promise<string | undefined>;
    readonly scanDisks: () => Promise<void>;
    readonly scanAll: (options: ScanOptions) => Promise<void>;
  };

/** The grace has begun anew while the lanes were waited for. */
const TOO_EARLY = {
  kind: "retry",
  message: "an earlier agent may be changing what is on it",
  unanswered: "not-sent",
} as const;

type Act = {
  readonly context: ControllerStepContext;
  readonly view: ControllerView;
  readonly lane: Lane;
};

export async function performControllerStep(
  context: ControllerStepContext,
  view: ControllerView,
  step: steps.ControllerStep,
): Promise<StepResult> {
  const { row, members } = view;
  if (step.kind === "record-controller") {
    const written = await context.writer.recordController(row, step.patch);
    const message = "the intent changed before the status was committed";
    return written ? { kind: "ok" } : { kind: "retry", message };
  }
  const unknown = context.outcomes.of(row.id);
  if (unknown !== undefined) {
    const { method, since } = unknown;
    const message = `waits for the outcome of ${method}, whose answer was lost at ${since.toISOString()}`;
    return { kind: "retry", message, unanswered: "not-sent" };
  }
  switch (step.kind) {
    case "claim-controllers":
      return await inLanes(context, members, () => performClaim(context, view, step));
    case "release-controllers":
      return await inLanes(context, members, () => release(context, view, step));
    case "attach-controller":
      return await context.attached.whileAttaching(step.traddr, () => attach(context, view, step));
    case "detach-controller":
      return await inLanes(context, members, (lane) => detach({ context, view, lane }, step));
  }
}

function inLanes<T>(
  { lanes, rows }: ControllerStepContext,
  members: readonly Member[],
  work: (lane: Lane) => Promise<T>,
): Promise<T> {
  const disks = [...rows.disks()].filter((disk) =>
    members.some(
      (member) =>
        member.disks.some(({ row }) => row.id === disk.id) ||
        (member.row !== undefined && hasDrive(member.row, disk)),
    ),
  );
  const keys: LaneKey[] = [
    ...members.map(({ address }) => ({ kind: "controller", address }) as const),
    ...disks.map(({ id }) => ({ kind: "disk", disk: id, mode: "exclusive" }) as const),
  ];
  return lanes.run(keys, (lane) => {
    trace.getActiveSpan()?.addEvent("lanes held");
    return work(lane);
  });
}

async function release(
  context: ControllerStepContext,
  view: ControllerView,
  step: steps.ReleaseControllers,
): Promise<StepResult> {
  const { kernel, spdk, claims, log, pending } = context;
  if (view.inKernel?.driver === VFIO && isInGrace(pending(new Date()))) return TOO_EARLY;
  const moved = await whatMoved(kernel, view, step);
  if (moved !== undefined) return { kind: "retry", message: moved, unanswered: "not-sent" };
  // Whoever has attached one of them meanwhile uses it.
  const controllers = await attempt(spdk.bdevNvmeGetControllers());
  if (controllers.kind !== "ok") return retryOf([controllers]);
  const addresses = new Set(step.returns.map(({ address }) => address));
  const user = controllers.value.find(({ paths }) =>
    paths.some(({ trid }) => trid.traddr !== undefined && addresses.has(trid.traddr)),
  );
  if (user !== undefined) {
    return { kind: "retry", message: `controller ${user.name} of the target is attached there` };
  }
  const holder = await context.groupUser(view.address);
  if (holder !== undefined) return { kind: "retry", message: `VFIO_IN_USE: ${holder}` };
  const released = await releaseFunctions(kernel, step.returns);
  for (const { row } of view.members.flatMap(({ disks }) => disks)) {
    claims.end(row.id);
  }
  if (!released.ok) return { kind: "retry", message: `${released.reason}: ${released.detail}` };
  log.info({ controllers: step.returns }, "controllers given back to their kernel drivers");
  return { kind: "ok" };
}

/**
 * Whether a function has another driver than the step was planned for: it was planned from what was seen
 * in the middle of a claim, which has ended since. Undefined: none has.
 */
async function whatMoved(
  kernel: Kernel,
  { members }: ControllerView,
  { returns }: steps.ReleaseControllers,
): Promise<string | undefined> {
  for (const { address } of returns) {
    const planned = members.find((member) => member.address === address)?.inKernel?.driver;
    const driver = await readDriver(kernel, address);
    if (driver === planned) continue;
    return `${address} has driver ${driver ?? "none"} now, not ${planned ?? "none"}`;
  }
  return undefined;
}

async function attach(
  context: ControllerStepContext,
  view: ControllerView,
  step: steps.AttachController,
): Promise<StepResult> {
  const { spdk, observed, attached, kernel, rows } = context;
  const { controllerName: name, traddr } = step;
  const { row } = view;
  // Perhaps a virtual machine's. What the agent has taken itself is not asked for each time.
  const holder = row.originalDriver === undefined ? await context.groupUser(traddr) : undefined;
  if (holder !== undefined) return { kind: "retry", message: `VFIO_IN_USE: ${holder}` };
  const answer = await inLanes(context, view.members, (lane) =>
    changing(
      { context, row, lane },
      spdk.bdevNvmeAttachController({ name, trtype: "PCIe", traddr }),
    ),
  );
  if (answer.kind === "open") return retryOf([answer]);
  // SPDK refuses a controller or an address that is attached already, so a refusal decides nothing:
  // the disks on the target are listed.
  const { incarnation } = observed;
  const scanFailure = await scanAfterAttach(context, view, answer.kind === "ok");
  if (scanFailure !== undefined) return { kind: "retry", message: scanFailure };
  // The scan counts only if the target is still the incarnation that the controller was attached in.
  if (incarnation === undefined || observed.incarnation !== incarnation)
    return { kind: "retry", message: "the SPDK target disconnected after the attach" };
  if (attached.nameAt(traddr) === undefined) {
    if (answer.kind === "ok")
      return { kind: "retry", message: "it was attached and is not listed" };
    if ((await readDriver(kernel, traddr)) !== VFIO) {
      const message = `${traddr} is not on vfio-pci any more`;
      return { kind: "retry", message, unanswered: "not-sent" };
    }
    const user = await context.groupUser(traddr);
    if (user !== undefined) return { kind: "retry", message: `VFIO_IN_USE: ${user}` };
    const pid = rows.node?.targetProcess?.pid;
    return { kind: "retry", message: await attachFailureCause(kernel, answer.error, pid) };
  }
  markEmpty(context, step);
  return { kind: "ok" };
}

/** What shows no store is given back and looked at, unless it was found blank in this claim. */
function markEmpty(
  { rows, observed, claims }: ControllerStepContext,
  { controllerName, traddr }: steps.AttachController,
): void {
  for (const { id } of rows.disks()) {
    const disk = observed.disk(id);
    if (disk?.controllerName !== controllerName || disk.store !== undefined) continue;
    if (!claims.has(id, "blank", traddr)) claims.add(id, "empty", [traddr]);
  }
}

/**
 * Reads what the attach brought: the disks, and all lvols where an lvstore was expected or is loaded.
 * Resolves to why that failed, or to undefined.
 */
async function scanAfterAttach(
  { observed, scanDisks, scanAll, rows }: ControllerStepContext,
  { row, address, disks }: ControllerView,
  attached: boolean,
): Promise<string | undefined> {
  const expected = attached && disks.some((disk) => disk.row.lvsUuid !== undefined);
  const isLoaded = () =>
    [...rows.disks()].some(
      (disk) => disk.address === address && observed.disk(disk.id)?.store !== undefined,
    );
  try {
    // A failed attach must not cost a full scan each time.
    if (!expected) await scanDisks();
    if (expected || isLoaded()) await scanAll({ sizes: true, subsystems: false });
    return undefined;
  } catch (error) {
    const why = error instanceof Error ? error.message : "";
    return `cannot list the disks after the attach of ${row.id}: ${why}`;
  }
}

/** The store of a disk that is to be released, with nothing of it exported. */
function isLetGo({ rows, observed }: ControllerStepContext, storeUuid: string): boolean {
  const disk = [...rows.disks()].find(({ id }) => observed.disk(id)?.store?.uuid === storeUuid);
  return disk?.wanted === "release" && exportsLeft({ rows, observed }, disk) === 0;
}

async function detach(on: Act, step: steps.DetachController): Promise<StepResult> {
  const { spdk, attached, rows, observed } = on.context;
  const { controllerName: name } = step;
  if (isInGrace(on.context.pending(new Date()))) return TOO_EARLY;
  // Of namespaces without a row, only the stores on them show that they are used.
  const stores = await attempt(spdk.bdevLvolGetLvstores());
  if (stores.kind !== "ok") return retryOf([stores]);
  const isThere = ({ baseBdev }: { readonly baseBdev: string }) =>
    /^n\d+$/.test(baseBdev.slice(name.length)) && baseBdev.startsWith(name);
  const used = stores.value.find((store) => isThere(store) && !isLetGo(on.context, store.uuid));
  if (used !== undefined) {
    return { kind: "retry", message: `lvstore ${used.name} is loaded on ${used.baseBdev}` };
  }
  const call = spdk.bdevNvmeDetachController(name);
  const detached = await changing({ ...on, row: on.view.row }, call);
  const isGone =
    detached.kind === "ok" || (detached.kind === "refused" && detached.error.kind === "absent");
  if (!isGone) return retryOf([detached]);
  attached.detached(name);
  for (const { id } of rows.disks()) {
    if (observed.disk(id)?.controllerName === name) observed.setDisk(id, undefined);
  }
  return { kind: "ok" };
}
