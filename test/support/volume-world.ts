// One volume's world for the laws of the volume loops: what is really on the target, what was observed of
// it, its row, and what each step and the time do to it. A step that must never be taken throws.
import { addressText } from "../../src/model/address.ts";
import { allowHostKey, listenKey, QOS_KEY } from "../../src/model/export-parts.ts";
import type { StepFailure } from "../../src/model/failure.ts";
import {
  confirmedHosts,
  sameAddress,
  sameLimits,
  type ListenAddress,
  NO_LIMITS,
  type LvolRow,
  type PresentLvol,
} from "../../src/model/lvol.ts";
import { leavesDirt } from "../../src/model/pending-op.ts";
import type { FreeSpace } from "../../src/model/disk.ts";
import { NO_SPACE, type PresentSubsystem } from "../../src/model/lvol-state.ts";
import { realLimits } from "../../src/model/qos.ts";
import { VOLUME_LOOPS } from "../../src/reconcile/loops.ts";
import { volumeRecord } from "../../src/reconcile/lvol/record.ts";
import { volumeView, type VolumePlanView } from "../../src/reconcile/lvol/view.ts";
import type { VolumeStep } from "../../src/reconcile/steps.ts";
import type { Observed } from "../../src/reconcile/target/observed.ts";
import type { UnknownOutcomes } from "../../src/reconcile/target/unknown-outcomes.ts";
import { Rows } from "../../src/store/rows.ts";
import {
  CLUSTER,
  DISK,
  diskRow,
  LISTENER,
  MIB,
  SPACE_THRESHOLDS,
  STORE_UUID,
  VOLUME,
} from "./model.ts";

export const RUN = "0123456789abcdef";
export const EPOCH = 7n;
export const NOW = new Date("2026-11-26T00:00:00Z");
export const UUID = "99999999-0000-4000-8000-000000000009";
export const HOSTS = ["a", "b", "c"].map((name) => `nqn.2026-11.io.host:${name}`);
export const SECOND: ListenAddress = { ...LISTENER, traddr: "127.0.0.2" };
export const OLD: ListenAddress = { ...LISTENER, traddr: "127.0.0.9" };

export const LVOL: PresentLvol = {
  kind: "present",
  uuid: UUID,
  lvsUuid: STORE_UUID,
  sizeBytes: 12n * MIB,
  thin: true,
  allocatedClusters: 0n,
  parent: undefined,
  limits: NO_LIMITS,
};

export type Target = {
  lvol: PresentLvol | undefined;
  subsystem: PresentSubsystem | undefined;
  /** Hosts with a connection. */
  connected: readonly string[];
};

export type World = {
  row: LvolRow;
  readonly target: Target;
  readonly observed: Observed;
  readonly outcomes: UnknownOutcomes;
  readonly failures: Map<string, StepFailure>;
  /** Keys of failed steps that are not tried again before the time passes. */
  readonly waiting: Set<string>;
  readonly listenAddresses: readonly ListenAddress[];
  readonly refusedHosts: readonly string[];
  readonly refusedAddresses: readonly ListenAddress[];
  /** Hosts that were connected before the target restarted, and connect again in a while. */
  returning: readonly string[];
  storeLoaded: boolean;
  graceMs: number;
  /** It listened without its namespace when it was found, and does still. */
  unsafe: boolean;
  /** The store has no clusters for a larger lvol. */
  readonly noRoom: boolean;
  readonly refusesQos: boolean;
  /** Which steps, and which records, are slow. */
  readonly slow: readonly boolean[];
  turn: number;
  /** Its export was ended in this incarnation of the target. */
  ended: boolean;
  /** Of the disk's row. */
  freeSpace: FreeSpace;
  /** What an earlier agent has sent may be running until then. */
  graceUntil: Date;
};

export const isIn = (addresses: readonly ListenAddress[], address: ListenAddress) =>
  addresses.some((other) => sameAddress(other, address));

export function view(world: World, inFlight = false): VolumePlanView {
  const { row, observed, outcomes, listenAddresses, graceMs } = world;
  const rows = new Rows();
  rows.apply({ lvols: [row], disks: [diskRow({ freeSpace: world.freeSpace })] });
  const source = {
    rows,
    observed,
    outcomes,
    reconnectGraceMs: graceMs,
    listenAddresses: () => listenAddresses,
    isolation: "strict",
    zeroing: "manual",
    zeroingHoldMs: 0,
    slices: { of: () => undefined, heldBytes: () => 0n },
    writeMode: () => "read-write" as const,
    spaceThresholds: SPACE_THRESHOLDS,
    pending: () => ({
      incarnation: RUN,
      epoch: EPOCH,
      now: NOW,
      graceUntil: world.graceUntil,
      earlierMayRun: false,
    }),
  } as const;
  const failures = Object.fromEntries(world.failures);
  return volumeView(source, row, { now: NOW, inFlight, failures });
}

function must(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(`must never be: ${what}`);
}

/** What the driver would keep the back-off of a step under. */
function keyOf(loop: string, step: VolumeStep): string {
  switch (step.kind) {
    case "allow-host":
      return allowHostKey(step.host);
    case "add-listener":
      return listenKey(step.address);
    case "deny-host":
      return `${loop}/${step.kind} ${step.host}`;
    case "remove-listener":
      return `${loop}/${step.kind} ${addressText(step.address)}`;
    case "set-qos":
      return QOS_KEY;
    default:
      return `${loop}/${step.kind}`;
  }
}

function fail(world: World, key: string, message: string): void {
  const attempt = (world.failures.get(key)?.attempt ?? 0) + 1;
  world.failures.set(key, { attempt, message, nextTryTime: NOW });
  world.waiting.add(key);
}

/** The law of every moment: reachable only with its namespace. */
function mustBeSafe(world: World): void {
  const { subsystem } = world.target;
  const safe =
    subsystem === undefined || subsystem.listeners.length === 0 || subsystem.namespaces.length > 0;
  if (safe) world.unsafe = false;
  must(safe || world.unsafe, "a listener without its namespace");
}

/** Changes the subsystem, which is then observed as it is. */
function change(world: World, to: PresentSubsystem | undefined): void {
  const { target, observed } = world;
  target.subsystem = to;
  const reachable = to !== undefined && to.listeners.length > 0;
  const hosts = to?.allowAnyHost === true ? target.connected : (to?.hosts ?? []);
  target.connected = reachable ? target.connected.filter((one) => hosts.includes(one)) : [];
  observed.setSubsystem(VOLUME, to ?? { kind: "absent" });
}

function refuse({ observed }: World): string {
  observed.setSubsystem(VOLUME, undefined);
  return "refused";
}

function mustLetIn({ row }: World, hosts: readonly string[], anyHost: boolean): void {
  const confirmed = confirmedHosts(row);
  must(
    hosts.every((host) => confirmed.hosts.includes(host)),
    "let in a host that is not wanted or not confirmed",
  );
  must(!anyHost || confirmed.allowAnyHost, "let in any host unasked");
}

function askWhoIsConnected({ observed, target }: World): void {
  observed.setConnected(VOLUME, target.connected);
}

const REPEATABLE = ["allow-host", "deny-host", "set-any-host", "add-listener", "remove-listener"];

/** As the target would; the message of the failure, if it failed and is to be tried again. */
function act(world: World, step: VolumeStep): string | undefined {
  const { observed, outcomes, row } = world;
  const { restoreUntilUnexported } = view(world);
  const unknown = outcomes.of(row.id, "subsystem") !== undefined;
  switch (step.kind) {
    case "observe-lvol":
    case "create-lvol":
    case "record-lvol":
    case "resize-lvol":
    case "inflate-lvol":
    case "delete-lvol":
    case "rename-lvol":
      return actOnLvol(world, step);
    case "set-parent":
      throw new Error("must never be: made a clone of a volume that is none");
    case "observe-subsystem": {
      const mark = unknown ? undefined : observed.readMark;
      const { subsystem } = world.target;
      if (subsystem !== undefined) askWhoIsConnected(world);
      observed.setSubsystem(VOLUME, subsystem ?? { kind: "absent" }, mark);
      return undefined;
    }
    default: {
      must(
        !row.unconfirmed || row.deleteRequestedTime !== undefined,
        "changed what is unconfirmed",
      );
      if (unknown && !REPEATABLE.includes(step.kind)) return "waits for a lost answer";
      if (step.kind === "end-export") must(!restoreUntilUnexported, "ended what is to be kept");
      const failure = actOnExport(world, step);
      if (unknown) outcomes.answeredLater(row.id);
      return failure;
    }
  }
}

function actOnLvol(
  world: World,
  step: Extract<VolumeStep, { kind: `${string}-lvol` }>,
): string | undefined {
  const { row, target, observed } = world;
  switch (step.kind) {
    case "observe-lvol":
      must(world.storeLoaded, "read an lvol of a store that is not loaded");
      observed.setLvol(VOLUME, target.lvol ?? { kind: "absent" });
      return undefined;
    case "record-lvol":
      world.row = { ...row, ...step.patch };
      return undefined;
    case "create-lvol":
      must(target.lvol === undefined, "created an lvol twice");
      must(row.lvolUuid === undefined, "created an lvol that existed before");
      target.lvol = { ...LVOL, sizeBytes: step.sizeBytes, thin: step.thin, name: VOLUME };
      observed.setLvol(VOLUME, target.lvol);
      return undefined;
    case "inflate-lvol":
      throw new Error("must never be: inflated an lvol that is as wanted");
    case "resize-lvol": {
      const { lvol } = target;
      must(lvol !== undefined, "grew an lvol that is not there");
      must(row.deleteRequestedTime === undefined, "grew what is being deleted");
      must(
        row.pendingOp?.op === "resize" && row.pendingOp.run === RUN,
        "grew without a note of it",
      );
      must(step.sizeBytes > lvol.sizeBytes, "shrank an lvol");
      if (world.noRoom) return `bdev_lvol_resize answered -32602 (${NO_SPACE})`;
      target.lvol = { ...lvol, sizeBytes: step.sizeBytes };
      observed.setLvol(VOLUME, target.lvol);
      observed.expireSubsystem(VOLUME);
      return undefined;
    }
    case "delete-lvol":
      must(row.deleteRequestedTime !== undefined, "deleted an lvol unasked");
      must(row.unexportedTime !== undefined, "deleted before the end of the export was recorded");
      must(target.subsystem === undefined, "deleted an exported lvol");
      must(row.pendingOp?.op === "delete", "deleted without a note of it");
      must(!view(world).restoreUntilUnexported, "deleted what is to be kept");
      must(!row.adopted || world.freeSpace === "UNKNOWN", "freed bytes without a note of it");
      target.lvol = undefined;
      observed.setLvol(VOLUME, undefined);
      return undefined;
    case "rename-lvol":
      must(row.adopted, "renamed an lvol that an agent has made");
      must(target.lvol?.uuid === step.lvolUuid, "renamed an lvol that is not there");
      must(row.deleteRequestedTime === undefined, "renamed what is being deleted");
      target.lvol = { ...target.lvol, name: step.newName };
      observed.setLvol(VOLUME, undefined);
      return undefined;
  }
}

type ExportStep = Exclude<
  VolumeStep,
  { readonly kind: `${string}-lvol` | "observe-subsystem" | "set-parent" }
>;

function actOnExport(world: World, step: ExportStep): string | undefined {
  const { row, target, observed, refusedHosts, listenAddresses } = world;
  if (step.kind === "prepare-export") {
    must(target.subsystem === undefined, "created a subsystem twice");
    must(!world.ended, "restored an export that had been ended");
    const { serialNumber, allowAnyHost, dmrsl } = step;
    mustLetIn(world, step.hosts, allowAnyHost);
    const hosts = step.hosts.filter((host) => !refusedHosts.includes(host));
    const made = { serialNumber, dmrsl, allowAnyHost, hosts, listeners: [], namespaces: [] };
    change(world, { kind: "present", ...made });
    if (!row.exported) observed.setNewExport(VOLUME);
    for (const host of step.hosts) {
      if (refusedHosts.includes(host)) fail(world, allowHostKey(host), "refused");
    }
    return undefined;
  }
  const before = target.subsystem;
  must(before !== undefined, `${step.kind} of an absent subsystem`);
  const { hosts, listeners, namespaces } = before;
  switch (step.kind) {
    case "allow-host":
      mustLetIn(world, [step.host], false);
      must(!hosts.includes(step.host), "let in a host twice");
      if (refusedHosts.includes(step.host)) return refuse(world);
      change(world, { ...before, hosts: [...hosts, step.host] });
      return undefined;
    case "deny-host":
      must(!confirmedHosts(row).hosts.includes(step.host), "shut out a host that is wanted");
      change(world, { ...before, hosts: hosts.filter((host) => host !== step.host) });
      return undefined;
    case "set-any-host":
      mustLetIn(world, [], step.allowAnyHost);
      change(world, { ...before, allowAnyHost: step.allowAnyHost });
      return undefined;
    case "add-namespace":
      must(target.lvol !== undefined, "attached an lvol that is not there");
      must(listeners.length === 0, "attached a namespace while hosts could connect");
      must(namespaces.length === 0, "attached a second namespace");
      change(world, {
        ...before,
        namespaces: [{ nsid: 1, bdevName: step.lvolUuid, uuid: step.uuid }],
      });
      return undefined;
    case "add-listener":
      must(namespaces.length > 0, "added a listener before the namespace");
      must(isIn(listenAddresses, step.address), "listened where it is not wanted");
      if (isIn(world.refusedAddresses, step.address)) return refuse(world);
      change(world, { ...before, listeners: [...listeners, step.address] });
      return undefined;
    case "set-qos":
      must(target.lvol !== undefined && namespaces.length > 0, "limited what nobody has open");
      must(!sameLimits(target.lvol.limits, realLimits(step.limits)), "set limits twice");
      if (world.refusesQos) return "refused";
      target.lvol = { ...target.lvol, limits: realLimits(step.limits) };
      observed.setLvol(VOLUME, target.lvol);
      return undefined;
    case "remove-listener": {
      const left = listeners.filter((one) => !sameAddress(one, step.address));
      const moved = left.some((one) => isIn(listenAddresses, one));
      must(namespaces.length === 0 || moved, "took away the last listener that is up");
      const wanted = isIn(listenAddresses, step.address);
      must(namespaces.length === 0 || !wanted, "took away a listener that is wanted");
      change(world, { ...before, listeners: left });
      return undefined;
    }
    case "end-export":
      return endExport(world, step.forced);
  }
}

function endExport(world: World, forced: boolean): string | undefined {
  const { row, target, observed } = world;
  must(row.deleteRequestedTime !== undefined, "ended an export unasked");
  must(forced === row.deleteForced, "forced what was not to be forced");
  if (!forced) {
    observed.setConnected(VOLUME, target.connected);
    if (target.connected.length > 0) return "in use";
    const reachable = target.lvol !== undefined && !row.unconfirmed;
    must(!reachable || world.returning.length === 0, "ended an export whose hosts will come back");
  }
  change(world, undefined);
  observed.setExportEnded(VOLUME);
  world.ended = true;
  return undefined;
}

/** What comes with time. Did anything, apart from further attempts of what is refused? */
function timePasses(world: World): boolean {
  const { target, observed, row, outcomes } = world;
  world.waiting.clear();
  const { subsystem } = target;
  const reachable = subsystem !== undefined && subsystem.listeners.length > 0;
  if (!world.storeLoaded) {
    world.storeLoaded = true;
    loadStore(observed);
    return true;
  }
  if (outcomes.resolve(row.id).length > 0) return true;
  if (reachable && world.returning.length > 0) {
    const { allowAnyHost, hosts } = subsystem;
    target.connected = world.returning.filter((host) => allowAnyHost || hosts.includes(host));
    world.returning = [];
    observed.setConnected(VOLUME, target.connected);
    return true;
  }
  if (row.deleteRequestedTime !== undefined && target.connected.length > 0) {
    target.connected = [];
    observed.setConnected(VOLUME, []);
    return true;
  }
  if (world.graceMs > 0 && reachable) {
    world.graceMs = -1;
    return true;
  }
  return false;
}

export function loadStore(observed: Observed): void {
  const row = diskRow();
  observed.setDisk(DISK, {
    controllerName: "c",
    bdevName: "n1",
    serial: row.serial,
    model: row.model,
    sizeBytes: row.sizeBytes,
    blockSize: row.blockSize,
    store: {
      name: row.lvsName ?? "",
      uuid: STORE_UUID,
      baseBdev: "n1",
      clusterBytes: CLUSTER,
      totalClusters: 255n,
      freeClusters: 255n,
    },
  });
}

const isSlow = (world: World) => {
  world.turn += 1;
  return world.slow[world.turn % world.slow.length] === true && world.turn < 40;
};

/** One pass: the steps that were taken, and whether anything was done. */
function pass(world: World): { readonly taken: readonly VolumeStep[]; readonly busy: boolean } {
  const planned = VOLUME_LOOPS.flatMap(({ name, plan }) => {
    const steps = plan(view(world)) ?? [];
    return [steps].flat().map((step) => ({ step, key: keyOf(name, step) }));
  });
  const due = planned.filter(({ key }) => !world.waiting.has(key));
  const taken: VolumeStep[] = [];
  for (const { step, key } of due) {
    // It waits for its lane; what was planned beside it is done meanwhile.
    if (isSlow(world)) continue;
    const failure = act(world, step);
    if (failure === undefined) world.failures.delete(key);
    else fail(world, key, failure);
    mustBeSafe(world);
    taken.push(step);
  }
  const patch = volumeRecord(view(world, taken.length < due.length));
  if (patch !== undefined && !isSlow(world)) world.row = { ...world.row, ...patch };
  // What the loop of the disk records.
  const isDirty = world.freeSpace === "ZEROED" && leavesDirt(world.row, RUN);
  if (isDirty && !isSlow(world)) world.freeSpace = "UNKNOWN";
  return { taken, busy: due.length > 0 || patch !== undefined || isDirty };
}

/** How often what is refused is tried again before it is left at that. */
const PATIENCE = 2;

/** Passes until no loop wants anything and nothing changes with time; throws if that takes long. */
export function converge(world: World): readonly VolumeStep[] {
  const taken: VolumeStep[] = [];
  let quiet = 0;
  for (let turn = 0; turn < 120; turn += 1) {
    const done = pass(world);
    taken.push(...done.taken);
    if (done.busy) continue;
    if (timePasses(world)) quiet = 0;
    else quiet += 1;
    if (quiet > PATIENCE) return taken;
  }
  throw new Error(`did not converge: ${JSON.stringify(taken.slice(-12).map(({ kind }) => kind))}`);
}
