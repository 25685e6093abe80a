// Performs the steps of the volume loops. Answers become observations; after anything but a plain
// success the part it concerns is unknown and the next plan looks at it. "Exists" and "absent" are
// settled here only, by what reading back shows (DESIGN 3.5).
import { trace } from "@opentelemetry/api";
import type {
  LvolRow,
  ObservedLvol,
  LvolStatusPatch,
  ObservedSubsystem,
} from "../../model/lvol.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import type { Subsystem } from "../../spdk/replies-nvmf.ts";
import { attempt, retryOf, type AfterLoss, type Attempt } from "../engine/attempt.ts";
import type { StepResult } from "../engine/driver.ts";
import type { Lane, LaneKey, Lanes } from "../engine/lanes.ts";
import type { Observed } from "../target/observed.ts";
import type * as steps from "../steps.ts";
import type { VolumePlanView } from "./view.ts";

export type VolumeStepContext = {
  readonly spdk: SpdkClient;
  readonly observed: Observed;
  readonly lanes: Lanes;
  readonly afterLoss: AfterLoss;
  readonly writer: {
    readonly recordLvol: (
      row: Pick<LvolRow, "id" | "generation">,
      patch: LvolStatusPatch,
    ) => Promise<boolean>;
  };
  /** The disk turned out not to hold its store any more: look at it again. */
  readonly lostStore: (diskId: string) => void;
};

type Act = {
  readonly context: VolumeStepContext;
  readonly view: VolumePlanView;
  readonly lane: Lane;
};

export function performVolumeStep(
  context: VolumeStepContext,
  view: VolumePlanView,
  step: steps.VolumeStep,
): Promise<StepResult> {
  if (step.kind === "record-lvol") return recordLvol(context, view, step.patch);
  return context.lanes.run(laneKeys(view, step), (lane) => {
    trace.getActiveSpan()?.addEvent("lanes held");
    return act({ context, view, lane }, step);
  });
}

async function recordLvol(
  { writer }: VolumeStepContext,
  { row }: VolumePlanView,
  patch: LvolStatusPatch,
): Promise<StepResult> {
  const written = await writer.recordLvol(row, patch);
  return written ? { kind: "ok" } : { kind: "retry", message: "the intent changed meanwhile" };
}

type TargetStep = Exclude<steps.VolumeStep, steps.RecordLvol>;

function laneKeys(view: VolumePlanView, step: TargetStep): LaneKey[] {
  const { row } = view;
  const family: LaneKey = { kind: "family", disk: row.diskId, root: row.id };
  const nqn: LaneKey = { kind: "nqn", nqn: row.nqn };
  switch (step.kind) {
    case "observe-lvol":
    case "create-lvol":
    case "delete-lvol":
      return [family];
    case "add-namespace":
      return [family, nqn];
    case "observe-subsystem":
    case "prepare-export":
    case "adjust-export":
    case "delete-subsystem":
      return [nqn];
  }
}

function act(on: Act, step: TargetStep): Promise<StepResult> {
  switch (step.kind) {
    case "observe-lvol":
      return observeLvol(on, step);
    case "create-lvol":
      return createLvol(on, step);
    case "delete-lvol":
      return deleteLvol(on, step);
    case "observe-subsystem":
      return observeSubsystem(on, step);
    case "prepare-export":
      return prepareExport(on, step);
    case "adjust-export":
      return adjustExport(on, step);
    case "add-namespace":
      return addNamespace(on, step);
    case "delete-subsystem":
      return deleteSubsystem(on, step);
  }
}

function trying<T>(on: Act, call: Promise<T>): Promise<Attempt<T>> {
  return attempt(call, on.lane, on.context.afterLoss);
}

async function observeLvol(on: Act, step: steps.ObserveLvol): Promise<StepResult> {
  const { spdk, observed, lostStore } = on.context;
  const { row } = on.view;
  const found = await trying(on, spdk.getBdev(step.name));
  if (found.kind !== "ok") return retryOf([found]);
  if (found.value === undefined) {
    // Absent with its store loaded is absent; absent without it says nothing of the volume.
    const store = await trying(on, spdk.getLvstore({ uuid: step.lvsUuid }));
    if (store.kind !== "ok") return retryOf([store]);
    if (store.value === undefined) lostStore(row.diskId);
    else observed.setLvol(row.id, { kind: "absent" });
    return { kind: "ok" };
  }
  const bdev = found.value;
  if (bdev.kind !== "lvol" || bdev.lvol.storeUuid !== step.lvsUuid) {
    return { kind: "fatal", message: `${step.name} on the target is not an lvol of this store` };
  }
  const lvol: ObservedLvol = {
    kind: "present",
    uuid: bdev.uuid,
    lvsUuid: bdev.lvol.storeUuid,
    sizeBytes: bdev.sizeBytes,
    thin: bdev.lvol.thin,
    allocatedClusters: bdev.lvol.allocatedClusters,
  };
  const conflict = row.lvolUuid === undefined ? conflictOf(on.view, bdev.lvol, lvol) : undefined;
  if (conflict !== undefined) return { kind: "fatal", message: conflict };
  observed.setLvol(row.id, lvol);
  return { kind: "ok" };
}

/** Why an lvol under our name, whose uuid we never saw, cannot be the one we wanted made. */
function conflictOf(
  { row }: VolumePlanView,
  shape: { readonly snapshot: boolean; readonly clone: boolean },
  lvol: Extract<ObservedLvol, { kind: "present" }>,
): string | undefined {
  if (row.deleteRequestedTime !== undefined) return undefined;
  if (shape.snapshot || shape.clone) return `lvol ${row.id} is a snapshot or a clone`;
  if (lvol.thin !== row.thin) return `lvol ${row.id} is ${lvol.thin ? "thin" : "thick"}`;
  if (lvol.sizeBytes !== row.promisedBytes) {
    return `lvol ${row.id} has ${lvol.sizeBytes} bytes instead of ${row.promisedBytes}`;
  }
  return undefined;
}

async function createLvol(on: Act, step: steps.CreateLvol): Promise<StepResult> {
  const { spdk, observed } = on.context;
  const { row } = on.view;
  const { lvsUuid, lvolName, sizeBytes, thin } = step;
  const create = { lvsUuid, lvolName, sizeBytes, thin, clearMethod: "write_zeroes" } as const;
  const made = await trying(on, spdk.bdevLvolCreate(create));
  if (made.kind === "ok") {
    const uuid = made.value;
    const allocatedClusters = thin ? 0n : undefined;
    observed.setLvol(row.id, {
      kind: "present",
      uuid,
      lvsUuid,
      sizeBytes,
      thin,
      allocatedClusters,
    });
    return { kind: "ok" };
  }
  observed.setLvol(row.id, undefined);
  // The name is taken: perhaps by our own lost answer. The look that follows settles it.
  if (made.kind === "refused" && made.error.kind === "exists") return { kind: "ok" };
  return retryOf([made]);
}

async function deleteLvol(on: Act, step: steps.DeleteLvol): Promise<StepResult> {
  const { spdk, observed, writer } = on.context;
  const { row, store } = on.view;
  if (store === undefined) return { kind: "retry", message: "the disk went away" };
  const gone = await trying(on, spdk.bdevLvolDelete({ lvsUuid: store.uuid, name: step.lvolUuid }));
  // Whatever the answer: reading back decides, as a repeat is an error and an error may have acted.
  observed.setLvol(row.id, undefined);
  if (gone.kind === "refused" && gone.error.kind === "absent") return { kind: "ok" };
  if (
    gone.kind === "refused" &&
    gone.error.kind !== "not_permitted" &&
    row.pendingOp !== undefined
  ) {
    // The bdev went first: the lvol is in no list, and yet on the disk with its clusters.
    await writer.recordLvol(row, { pendingOp: { ...row.pendingOp, failed: true } });
  }
  return retryOf([gone]);
}

async function observeSubsystem(on: Act, step: steps.ObserveSubsystem): Promise<StepResult> {
  const { spdk, observed } = on.context;
  const found = await trying(on, spdk.getSubsystem(step.nqn));
  if (found.kind !== "ok") return retryOf([found]);
  observed.setSubsystem(on.view.row.id, observedSubsystem(found.value));
  return { kind: "ok" };
}

/** A subsystem as read from the target; undefined means it is not there. */
export function observedSubsystem(subsystem: Subsystem | undefined): ObservedSubsystem {
  if (subsystem === undefined) return { kind: "absent" };
  return {
    kind: "present",
    serialNumber: subsystem.serialNumber ?? "",
    allowAnyHost: subsystem.allowAnyHost,
    hosts: subsystem.hosts,
    listeners: subsystem.listenAddresses,
    namespaces: subsystem.namespaces,
  };
}

/**
 * Runs changes of one subsystem. All in one write where the release queues them inside the target,
 * else one after another (VERSIONS section 1).
 */
async function changes(
  on: Act,
  calls: readonly (() => Promise<unknown>)[],
): Promise<readonly Attempt<unknown>[]> {
  const { pipelinePerSubsystem } = await on.context.spdk.capabilities();
  if (pipelinePerSubsystem) return Promise.all(calls.map((call) => trying(on, call())));
  const attempts: Attempt<unknown>[] = [];
  for (const call of calls) attempts.push(await trying(on, call()));
  return attempts;
}

async function prepareExport(on: Act, step: steps.PrepareExport): Promise<StepResult> {
  const { spdk, observed } = on.context;
  const { row } = on.view;
  const { nqn, serialNumber, modelNumber, allowAnyHost, hosts, listeners } = step;
  const attempts = await changes(on, [
    () =>
      spdk.nvmfCreateSubsystem({
        nqn,
        serialNumber,
        modelNumber,
        allowAnyHost,
        maxNamespaces: 1,
      }),
    ...hosts.map((host) => () => spdk.nvmfSubsystemAddHost({ nqn, host })),
    ...listeners.map((address) => () => spdk.nvmfSubsystemAddListener({ nqn, address })),
  ]);
  if (attempts.every(({ kind }) => kind === "ok")) {
    observed.setSubsystem(row.id, {
      kind: "present",
      serialNumber,
      allowAnyHost,
      hosts,
      listeners,
      namespaces: [],
    });
    return { kind: "ok" };
  }
  observed.setSubsystem(row.id, undefined);
  return retryOf(attempts);
}

async function adjustExport(on: Act, step: steps.AdjustExport): Promise<StepResult> {
  const { spdk, observed } = on.context;
  const { nqn, allowAnyHost } = step;
  const attempts = await changes(on, [
    ...step.removeHosts.map((host) => () => spdk.nvmfSubsystemRemoveHost({ nqn, host })),
    ...(allowAnyHost === undefined
      ? []
      : [() => spdk.nvmfSubsystemAllowAnyHost({ nqn, allowAnyHost })]),
    ...step.addHosts.map((host) => () => spdk.nvmfSubsystemAddHost({ nqn, host })),
    ...step.addListeners.map((address) => () => spdk.nvmfSubsystemAddListener({ nqn, address })),
  ]);
  const { id } = on.view.row;
  const before = observed.volume(id).subsystem;
  if (before?.kind !== "present" || !attempts.every(({ kind }) => kind === "ok")) {
    observed.setSubsystem(id, undefined);
    return retryOf(attempts);
  }
  observed.setSubsystem(id, {
    ...before,
    allowAnyHost: allowAnyHost ?? before.allowAnyHost,
    hosts: [...before.hosts.filter((host) => !step.removeHosts.includes(host)), ...step.addHosts],
    listeners: [...before.listeners, ...step.addListeners],
  });
  return { kind: "ok" };
}

async function addNamespace(on: Act, step: steps.AddNamespace): Promise<StepResult> {
  const { spdk, observed } = on.context;
  const { row } = on.view;
  const { nqn, lvolUuid, uuid, nguid } = step;
  const added = await trying(
    on,
    spdk.nvmfSubsystemAddNs({ nqn, bdevName: lvolUuid, nsid: 1, uuid, nguid }),
  );
  const before = observed.volume(row.id).subsystem;
  if (added.kind === "ok" && before?.kind === "present") {
    const namespaces = [...before.namespaces, { nsid: 1, bdevName: lvolUuid, uuid }];
    observed.setSubsystem(row.id, { ...before, namespaces });
    return { kind: "ok" };
  }
  // Missing bdev, nsid in use and "exported already" are one error: look at both sides again.
  observed.setSubsystem(row.id, undefined);
  observed.setLvol(row.id, undefined);
  return retryOf([added]);
}

async function deleteSubsystem(on: Act, step: steps.DeleteSubsystem): Promise<StepResult> {
  const { spdk, observed } = on.context;
  const { id, deleteForced } = on.view.row;
  if (!deleteForced) {
    // Asked when the intent was made, and again now that it is carried out.
    const hosts = await trying(on, spdk.nvmfSubsystemGetControllers(step.nqn));
    if (hosts.kind === "ok" && hosts.value.length > 0) {
      // Told without names: this goes into logs and traces. Explain names them.
      const count = new Set(hosts.value.map(({ hostNqn }) => hostNqn)).size;
      return { kind: "retry", message: `still in use by ${count} connected host(s)` };
    }
  }
  const gone = await trying(on, spdk.nvmfDeleteSubsystem(step.nqn));
  if (gone.kind === "ok") {
    observed.setSubsystem(id, { kind: "absent" });
    return { kind: "ok" };
  }
  observed.setSubsystem(id, undefined);
  return retryOf([gone]);
}
