// One disk's world for the laws of the disk loops: what is really there, what this process knows of it,
// and what each step and the time do to it. A step that must never be taken throws.
import type { DiskRow } from "../../src/model/disk.ts";
import { ownSubjects, refusing } from "../../src/model/disk-claim.ts";
import type { ControllerRow } from "../../src/model/controller.ts";
import { isChanged } from "../../src/model/disk-admission.ts";
import { blank, evidenceOf, type Evidence, type EvidenceKind } from "../../src/model/evidence.ts";
import { controllerName, diskId, storeName } from "../../src/model/identity.ts";
import type { PendingContext, PendingOpKind } from "../../src/model/pending-op.ts";
import { spaceOnTarget } from "../../src/reconcile/disk/free-space.ts";
import { diskRecord } from "../../src/reconcile/disk/record.ts";
import type { DiskView } from "../../src/reconcile/disk/view.ts";
import { endedWipe, wiped } from "../../src/reconcile/disk/wipe.ts";
import { againstWiping, isAsAsked } from "../../src/model/wipe.ts";
import { permits } from "../../src/reconcile/kinds.ts";
import { controllerRecord } from "../../src/reconcile/controller/record.ts";
import type { ControllerView, Member } from "../../src/reconcile/controller/view.ts";
import { CONTROLLER_LOOPS, DISK_LOOPS } from "../../src/reconcile/loops.ts";
import type { ControllerStep, DiskStep } from "../../src/reconcile/steps.ts";
import type { ObservedStore } from "../../src/reconcile/target/observed-disk.ts";
import type { WriteMode } from "../../src/store/fence.ts";
import { CLUSTER, FLEET, SPACE_THRESHOLDS, STORE_UUID } from "./model.ts";

export const IDENTITY = { serial: "S1", model: "M", nsid: 1 };
export const ID = diskId(IDENTITY);
export const NAME = storeName(FLEET, ID);
export const ADDRESS = "0000:01:00.0";
export const VFIO = "vfio-pci";
export const RUN = "0123456789abcdef";
export const EPOCH = 7n;
export const NOW = new Date("2026-11-26T00:00:00Z");
const FABRIC = { trtype: "TCP", traddr: "10.0.0.1", trsvcid: "4420", subnqn: "nqn.d" } as const;
const TWIN = "another disk shows the same serial, model and nsid";
const CONTROLLER = { PCIe: controllerName({ traddr: ADDRESS }), TCP: controllerName(FABRIC) };

export type Contents =
  | { readonly kind: "nothing" }
  | { readonly kind: "data"; readonly evidence: readonly EvidenceKind[] }
  | { readonly kind: "store"; readonly store: ObservedStore };

/** One disk's world: what is really there, what this process knows of it, and its row. */
export type World = {
  row: DiskRow;
  /** Of the controller, where the disk is a local one. */
  controller: ControllerRow;
  readonly transport: "PCIe" | "TCP";
  // really there
  driver: string | undefined;
  /** Evidence against the disk that does not come from what lies on it. */
  readonly against: readonly EvidenceKind[];
  contents: Contents;
  attached: boolean;
  /** The store that lies there is loaded; else it is still being loaded, if the disk is attached. */
  loaded: boolean;
  /** The answer to the next attach is lost, and the store is loaded later. */
  answerLost: boolean;
  /** Exports of its volumes; they end with time once it is to be released. */
  exportsLeft: number;
  readonly pulled: boolean;
  readonly duplicate: boolean;
  readonly dirty: boolean;
  readonly zeroesByItself: boolean;
  /** Lvols of the store that hold free clusters. */
  slices: readonly string[];
  /** What is free was held at one moment, and is clean since. */
  pinned: boolean;
  // known
  targetListed: boolean;
  kernelListed: boolean;
  /** As gathered under the present driver. */
  evidence: readonly Evidence[] | undefined;
  claimedBlank: boolean;
  foundEmpty: boolean;
  loadEnded: boolean;
  slicesListed: boolean;
  // the rest of the agent
  writeMode: WriteMode;
  graceOver: boolean;
  readonly format: boolean;
  /** Whether time passes in a pass, though there is more to do. */
  readonly haste: readonly boolean[];
};

const isFiller = (uuid: string) => uuid.startsWith("filler");

const sliceOf = (uuid: string) => ({ uuid, name: uuid, bytes: 1n, isFiller: isFiller(uuid) });

export const store = (name: string, uuid: string): ObservedStore => ({
  name,
  uuid,
  baseBdev: "n1",
  clusterBytes: CLUSTER,
  totalClusters: 255n,
  freeClusters: 255n,
});

export const evidence = (kind: EvidenceKind): Evidence => ({ kind, subject: "S1/1", detail: "" });

/** What an inspection finds. Only disk-discover, not a claim, looks at the allow list. */
export function inspect(
  { against, contents }: Pick<World, "against" | "contents">,
  by: "discover" | "claim",
): readonly Evidence[] {
  const left: readonly EvidenceKind[] =
    contents.kind === "store"
      ? ["SPDK_BLOBSTORE", "NONZERO_DATA"]
      : contents.kind === "data"
        ? contents.evidence
        : [];
  const all = [...against, ...left].map(evidence);
  return by === "discover" ? all : all.filter(({ kind }) => kind !== "NOT_ALLOWED");
}

function view(world: World): DiskView {
  const { row, transport, contents, driver, evidence, writeMode } = world;
  const loaded = world.loaded && contents.kind === "store" ? contents.store : undefined;
  const taken = world.controller.originalDriver !== undefined && driver !== "nvme";
  const inKernel = { address: ADDRESS, driver, kernelName: undefined, taken, evidence };
  const onTarget = {
    ...IDENTITY,
    controllerName: CONTROLLER[transport],
    bdevName: "n1",
    sizeBytes: row.sizeBytes,
    blockSize: row.blockSize,
    store: loaded,
  };
  const kernelSees = transport === "PCIe" && world.kernelListed && !world.pulled;
  const seen = world.targetListed && world.attached ? onTarget : undefined;
  return {
    row,
    now: NOW,
    inFlight: false,
    failures: {},
    targetConnected: true,
    onTarget: seen,
    space: spaceOnTarget(row, seen, SPACE_THRESHOLDS),
    spaceThresholds: SPACE_THRESHOLDS,
    targetListed: world.targetListed,
    attachMayRun: !world.graceOver && (transport === "TCP" || driver === VFIO),
    inKernel: kernelSees ? inKernel : undefined,
    kernelListed: world.kernelListed,
    fabric: transport === "TCP" ? { ...FABRIC, format: world.format } : undefined,
    conflict: world.duplicate ? TWIN : undefined,
    ownSubjects: ownSubjects([row]),
    setback: undefined,
    waits: undefined,
    claimedBlank: world.claimedBlank,
    loadEnded: world.loadEnded,
    exportsLeft: row.wanted === "release" ? world.exportsLeft : 0,
    heldBy: [],
    outcomeUnknown: undefined,
    fleet: FLEET,
    pending: pendingContext(world),
    writeMode,
    slices: world.slicesListed && loaded !== undefined ? world.slices.map(sliceOf) : undefined,
    zeroesByItself: world.zeroesByItself,
    zeroingRests: undefined,
    hostsMayFree: false,
    mayBeDirty: world.dirty,
  };
}

const pendingContext = ({ writeMode, graceOver }: World): PendingContext => ({
  incarnation: RUN,
  epoch: writeMode === "read-only" ? undefined : EPOCH,
  now: NOW,
  graceUntil: new Date(NOW.getTime() + (graceOver ? 0 : 1)),
  earlierMayRun: false,
});

/** Undefined: the disk is on a fabric. */
function controllerView(world: World): ControllerView | undefined {
  const { controller: row, driver, transport, writeMode } = world;
  if (transport !== "PCIe") return undefined;
  const { onTarget, conflict, claimedBlank, loadEnded, evidence } = diskSeen(world);
  const shows = driver === "nvme";
  const inKernel = {
    driver,
    driverOverride: undefined,
    iommuGroup: "1",
    identity: shows ? IDENTITY : undefined,
    namespaces: shows ? 1 : 0,
  };
  const { foundEmpty } = world;
  const disk = {
    row: world.row,
    onTarget,
    evidence,
    conflict,
    claimedBlank,
    foundEmpty,
    loadEnded,
    exportsLeft: world.row.wanted === "release" ? world.exportsLeft : 0,
  };
  const attached = world.targetListed && world.attached;
  const member: Member = {
    address: ADDRESS,
    row,
    inKernel: world.kernelListed && !world.pulled ? inKernel : undefined,
    attachedAs: attached ? CONTROLLER.PCIe : undefined,
    disks: world.pulled ? [] : [disk],
  };
  return {
    ...member,
    row,
    now: NOW,
    inFlight: false,
    failures: {},
    targetConnected: true,
    targetListed: world.targetListed,
    kernelListed: world.kernelListed,
    members: [member],
    obstacle: undefined,
    groupUser: undefined,
    elsewhere: false,
    missing: [],
    ownSubjects: ownSubjects([world.row]),
    pending: pendingContext(world),
    writeMode,
  };
}

function diskSeen(world: World) {
  const { onTarget, conflict, claimedBlank, loadEnded } = view(world);
  return { onTarget, conflict, claimedBlank, loadEnded, evidence: world.evidence };
}

export const gaveUp = ({ row }: World) =>
  row.state === "FAILED" && row.observedGeneration === row.generation;

export type WorldStep = DiskStep | ControllerStep;

/** What the drivers would take: no step of a disk only reads, so none is taken once it gave up. */
function planned(world: World): readonly WorldStep[] {
  const controller = controllerView(world);
  const ofController =
    controller === undefined ? [] : CONTROLLER_LOOPS.flatMap((loop) => loop.plan(controller) ?? []);
  const ofDisk = gaveUp(world) ? [] : DISK_LOOPS.flatMap((loop) => loop.plan(view(world)) ?? []);
  return [...ofController, ...ofDisk].filter(({ kind }) => permits(world.writeMode, kind));
}

function must(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(`must never be: ${what}`);
}

function mustBeAnnounced(world: World, op: PendingOpKind): void {
  const { row, controller, writeMode, transport } = world;
  const ofController = transport === "PCIe" && (op === "attach" || op === "detach");
  const { pendingOp: is } = ofController ? controller : row;
  const announced = is?.op === op && is.run === RUN && is.epoch === EPOCH;
  must(
    announced || (op === "attach" && writeMode === "restore-only"),
    `${op} without a note of it`,
  );
}

function mustBeWanted({ row, duplicate }: World): void {
  must(row.admitted && row.wanted !== "release", "took a disk that is not to be taken");
  must(!duplicate, "took one of two");
}

/** Somebody may be using what is on it. */
function mustBeIdle({ row, loaded, loadEnded, attached, exportsLeft, graceOver }: World): void {
  must(graceOver, "let go of a disk that an earlier agent may be changing");
  must(exportsLeft === 0 || !attached || !loaded, "let go of a disk under its exports");
  if (row.wanted === "release") return;
  must(!loaded, "let go of a disk with a store");
  must(!attached || row.lvsUuid === undefined, "let go of a disk whose store may be loading");
  must(!attached || loadEnded, "let go of a disk whose store may be found");
}

/** As the target and the kernel would; false if the step failed and is to be tried again. */
function act(world: World, step: WorldStep): boolean {
  const { row, contents } = world;
  switch (step.kind) {
    case "record-disk":
      if (step.patch.freeSpace === "ZEROED") {
        mustBeAnnounced(world, "zero-free-space");
        must(world.pinned && world.slices.length === 0, "took for zeroed what is not");
        must(!world.dirty, "took for zeroed what is dirty");
      }
      world.row = { ...row, ...step.patch };
      return true;
    case "record-controller":
      world.controller = { ...world.controller, ...step.patch };
      return true;
    case "claim-controllers": {
      const own = ownSubjects([row]);
      mustBeWanted(world);
      must(!world.attached, "claimed what is attached");
      must(world.evidence !== undefined, "claimed uninspected");
      must(refusing(world.evidence, own).length === 0, "claimed against the evidence");
      must(!isChanged(row, world.evidence), "claimed what has changed");
      must(world.controller.originalDriver === world.driver, "claimed with no way back");
      const found = inspect(world, "claim");
      if (refusing(found, own).length > 0) return false;
      Object.assign(world, { driver: VFIO, evidence: undefined, foundEmpty: false });
      world.claimedBlank = blank(found);
      return true;
    }
    case "release-controllers": {
      const [back] = step.returns;
      must(!world.attached && !world.loaded, "released while attached");
      must(world.graceOver || world.driver === "nvme", "released what may be being attached");
      must(
        back !== undefined && back.driver === world.controller.originalDriver,
        "released to another driver",
      );
      Object.assign(world, { driver: back.driver, evidence: undefined });
      Object.assign(world, { claimedBlank: false, foundEmpty: false });
      return true;
    }
    case "attach-controller":
      must(world.driver === VFIO, "attached a function of the kernel");
      must(world.controller.originalDriver !== undefined, "attached what was not taken");
      return attached(world, step.controllerName);
    case "attach-disk":
      must(row.wanted !== "release" && !world.duplicate, "attached what is not to be taken");
      return attached(world, step.controllerName);
    case "detach-disk":
    case "detach-controller":
      must(step.kind === "detach-controller" || row.wanted === "release", "detached unasked");
      mustBeIdle(world);
      mustBeAnnounced(world, "detach");
      Object.assign(world, { attached: false, loaded: false, loadEnded: false });
      return true;
    case "create-store":
      mustBeWanted(world);
      must(row.wanted === "take" && row.adoptedStore === undefined, "formatted a store to be read");
      must(world.attached, "formatted what is not attached");
      must(world.loadEnded, "formatted what may still be examined");
      must(contents.kind !== "store", "formatted a store, perhaps one that is still being loaded");
      must(row.lvsUuid === undefined, "formatted a disk that had a store of ours");
      must(world.transport === "PCIe" ? world.claimedBlank : world.format, "formatted unlicensed");
      must(world.transport === "TCP" || contents.kind === "nothing", "formatted data");
      must(row.lvsName === step.storeName, "formatted before the name was recorded");
      mustBeAnnounced(world, "create-store");
      world.contents = { kind: "store", store: store(step.storeName, STORE_UUID) };
      world.loaded = true;
      return true;
    case "rename-store":
      must(row.adoptedStore === step.lvsUuid && world.loaded, "renamed what is not ours");
      must(
        contents.kind === "store" && contents.store.name === step.oldName,
        "renamed another one",
      );
      if (contents.kind !== "store") return false;
      world.contents = { kind: "store", store: { ...contents.store, name: step.newName } };
      return true;
    case "observe-slices":
      world.slicesListed = true;
      return true;
    case "pin-free-space":
      must(row.lvsUuid === step.lvsUuid && world.loaded, "zeroed what is not ours");
      must(row.zeroRequestedTime !== undefined || world.zeroesByItself, "zeroed unasked");
      must(!world.dirty, "held free clusters that may get dirty");
      mustBeAnnounced(world, "zero-free-space");
      world.slices = [...world.slices.filter((uuid) => !isFiller(uuid)), "s1", "s2"];
      world.pinned = true;
      world.row = { ...row, zeroing: { zeroedBytes: 0n, totalBytes: 2n, startTime: NOW } };
      return true;
    case "wipe-disk":
      return wipe(world);
    case "zero-slice":
      must(row.lvsUuid === step.lvsUuid && world.loaded, "zeroed what is not ours");
      must(world.slices.includes(step.lvolUuid), "deleted what is no slice");
      must(!isFiller(step.lvolUuid) || row.freeSpace === "UNKNOWN", "freed what is not cleared");
      mustBeAnnounced(world, "zero-free-space");
      world.slices = world.slices.filter((uuid) => uuid !== step.lvolUuid);
      return true;
  }
}

function wipe(world: World): boolean {
  const { row, driver } = world;
  const { wipe: asked } = row;
  must(asked !== undefined, "wiped unasked");
  must(!row.admitted && row.lvolCount === 0, "wiped what was taken");
  must(!world.attached && !world.duplicate && !world.pulled, "wiped what is not there");
  must(driver === "nvme" || (driver === undefined && asked.begun !== undefined), "wiped unseen");
  Object.assign(world, { driver: "nvme", evidence: undefined });
  const found = inspect(world, "claim");
  const own = evidenceOf(IDENTITY, found);
  if (!isAsAsked(asked, own)) {
    world.row = { ...row, ...endedWipe(row, NOW, "EVIDENCE_CHANGED") };
    return true;
  }
  const place = { functions: [ADDRESS], partitions: false, siblings: [] };
  if (againstWiping(IDENTITY, found, place).length > 0) return false;
  world.contents = { kind: "nothing" };
  const ofPlace = found.filter((item) => !own.includes(item));
  world.row = { ...row, ...wiped(row, ofPlace) };
  return true;
}

function attached(world: World, name: string): boolean {
  must(!world.attached, "attached twice");
  must(name === CONTROLLER[world.transport], "attached by another name");
  mustBeAnnounced(world, "attach");
  const lost = world.answerLost;
  Object.assign(world, { attached: true, loadEnded: false, answerLost: false });
  world.loaded = world.contents.kind === "store" && !lost;
  if (!lost && !world.loaded && !world.claimedBlank) world.foundEmpty = true;
  return !lost;
}

const moment = (world: World) =>
  JSON.stringify([
    world.targetListed,
    world.kernelListed,
    world.graceOver,
    world.loaded,
    world.loadEnded,
    world.slicesListed,
    world.exportsLeft,
    world.evidence,
  ]);

/** What comes with time: lists, evidence, loaded stores, the end of the grace. Did anything? */
function timePasses(world: World): boolean {
  const { attached, contents, loaded, driver } = world;
  const before = moment(world);
  Object.assign(world, { targetListed: true, kernelListed: true, graceOver: true });
  if (attached && !loaded && contents.kind === "store") world.loaded = true;
  else if (attached && !loaded) world.loadEnded = true;
  if (world.row.wanted === "release" && world.exportsLeft > 0) world.exportsLeft -= 1;
  // A full scan follows the loading of a store.
  if (world.loaded) world.slicesListed = true;
  if (!attached && driver === "nvme") world.evidence = inspect(world, "discover");
  return moment(world) !== before;
}

/** Passes until no loop wants anything and nothing changes with time; throws if that takes long. */
export function converge(world: World): readonly WorldStep[] {
  const taken: WorldStep[] = [];
  for (let pass = 0; pass < 60; pass += 1) {
    const steps = planned(world);
    // A pass computes both from the same view.
    const mayRecord = permits(world.writeMode, "record");
    const patch = mayRecord ? diskRecord(view(world)) : undefined;
    const controller = controllerView(world);
    const controllerPatch = mayRecord && controller ? controllerRecord(controller) : undefined;
    const failed = steps.filter((step) => !act(world, step));
    taken.push(...steps);
    // While the database is away, nothing is committed.
    const changes = patch !== undefined || controllerPatch !== undefined;
    const recorded = world.writeMode === "read-write" && changes;
    if (recorded) {
      world.row = { ...world.row, ...patch };
      world.controller = { ...world.controller, ...controllerPatch };
    }
    const idle = steps.length === 0 && !recorded;
    const late = idle || failed.length > 0 || world.haste[pass % world.haste.length] === true;
    const changed = late && timePasses(world);
    if (idle && !changed) return taken;
  }
  throw new Error(`did not converge: ${JSON.stringify(taken.slice(-8).map(({ kind }) => kind))}`);
}
