// Possible worlds of one disk for the laws of the disk loops (disk-world.ts).
import fc from "fast-check";
import type { DiskRow } from "../../src/model/disk.ts";
import { newControllerRow, type ControllerRow } from "../../src/model/controller.ts";
import { isUse } from "../../src/model/disk-claim.ts";
import { evidenceOf, fingerprint, type EvidenceKind } from "../../src/model/evidence.ts";
import { storeName } from "../../src/model/identity.ts";
import type { PendingOp, PendingOpKind } from "../../src/model/pending-op.ts";
import type { WriteMode } from "../../src/store/fence.ts";
import {
  ADDRESS,
  EPOCH,
  evidence,
  ID,
  IDENTITY,
  inspect,
  NAME,
  NOW,
  RUN,
  store,
  VFIO,
  type Contents,
  type World,
} from "./disk-world.ts";
import { CLUSTER, diskRow, FLEET, STORE_UUID } from "./model.ts";

export const AGAINST: readonly EvidenceKind[] = [
  "MOUNTED",
  "BOOT_DISK",
  "EXCLUSIVE_OPEN_REFUSED",
  "IOMMU_GROUP_SHARED",
  "UNREADABLE",
];

export const CONTENTS = {
  nothing: { kind: "nothing" },
  ours: { kind: "store", store: store(NAME, STORE_UUID) },
  // A copy of the disk, or of its store made anew by somebody.
  otherUuid: { kind: "store", store: store(NAME, STORE_UUID.replace("1", "2")) },
  otherDisk: { kind: "store", store: store(storeName(FLEET, STORE_UUID), STORE_UUID) },
  otherFleet: { kind: "store", store: store(storeName("other", ID), STORE_UUID) },
  otherKind: { kind: "store", store: store("lvs0", STORE_UUID) },
  fileSystem: { kind: "data", evidence: ["SIGNATURE", "NONZERO_DATA"] },
  unknownData: { kind: "data", evidence: ["NONZERO_DATA"] },
} as const satisfies Record<string, Contents>;

const pendingOp: fc.Arbitrary<PendingOp | undefined> = fc.option(
  fc.record({
    op: fc.constantFrom<PendingOpKind[]>("attach", "detach", "create-store", "zero-free-space"),
    run: fc.constantFrom(RUN, "of-an-earlier-run"),
    epoch: fc.constantFrom(EPOCH, EPOCH - 1n),
    since: fc.constant(NOW),
    failed: fc.constant(false),
  }),
  { nil: undefined },
);

const rarely = fc.nat(9).map((n) => n === 9);

/** Each on its own; `worldOf` makes a possible world of them. */
const PARTS = {
  transport: fc.constantFrom("PCIe", "TCP"),
  driver: fc.constantFrom("nvme", VFIO, undefined),
  against: fc.oneof(
    { weight: 2, arbitrary: fc.subarray(["NOT_ALLOWED" as EvidenceKind]) },
    { weight: 1, arbitrary: fc.subarray([...AGAINST], { minLength: 1 }) },
  ),
  contents: fc.constantFrom<Contents[]>(...Object.values(CONTENTS)),
  attached: fc.boolean(),
  loaded: fc.boolean(),
  answerLost: fc.boolean(),
  exportsLeft: fc.nat(2),
  pulled: rarely,
  duplicate: rarely,
  dirty: rarely,
  targetListed: fc.boolean(),
  kernelListed: fc.boolean(),
  evidence: fc.constantFrom("none", "true", "blank", "mounted"),
  claimedBlank: fc.boolean(),
  foundEmpty: fc.boolean(),
  loadEnded: fc.boolean(),
  writeMode: fc.constantFrom<WriteMode[]>("read-write", "read-write", "restore-only", "read-only"),
  graceOver: fc.boolean(),
  format: fc.boolean(),
  haste: fc.array(fc.boolean(), { minLength: 1, maxLength: 8 }),
  // the row
  admitted: fc.boolean(),
  wanted: fc.constantFrom<DiskRow["wanted"][]>("take", "release"),
  /** A call has made the store that lies there one of this node. */
  adopted: fc.constant<boolean>(false),
  /** What was recorded of the store that was to be made, or was made. */
  recorded: fc.constantFrom("nothing", "name", "uuid"),
  claimedOnce: fc.boolean(),
  state: fc.constantFrom("DISCOVERED", "CLAIMING", "FOREIGN", "UP", "FAILED"),
  observed: fc.boolean(),
  zeroRequested: fc.boolean(),
  zeroed: fc.boolean(),
  zeroesByItself: fc.boolean(),
  slices: fc.subarray(["left1", "left2", "filler"]),
  slicesListed: fc.boolean(),
  /** What a wipe was asked for, if one was: what is there, or something else. */
  wipe: fc.constantFrom("none", "none", "asked", "begun", "other"),
  pendingOp,
};

export type Parts = {
  [Key in keyof typeof PARTS]: (typeof PARTS)[Key] extends fc.Arbitrary<infer T> ? T : never;
};

const seenOf = (contents: Contents) => fingerprint(inspect({ against: [], contents }, "claim"));

function rowOf(is: Parts, driver: string | undefined): DiskRow {
  const made = is.recorded === "uuid";
  const zeroRequested = made && is.zeroRequested && !is.zeroed;
  return diskRow({
    ...IDENTITY,
    id: ID,
    transport: is.transport,
    address: is.transport === "PCIe" ? ADDRESS : "10.0.0.1:4420",
    admitted: is.admitted,
    wanted: is.wanted,
    // What lies there was seen when it was asked for.
    admittedEvidence: is.wanted === "inspect" ? seenOf(is.contents) : undefined,
    adoptedStore: is.adopted ? STORE_UUID : undefined,
    state: is.state === "UP" && !made ? "CLAIMING" : is.state,
    generation: 2n,
    observedGeneration: is.observed && !zeroRequested ? 2n : 1n,
    driver,
    controllerName: undefined,
    lvsName: is.recorded === "nothing" ? undefined : NAME,
    clusterBytes: is.recorded === "nothing" ? undefined : CLUSTER,
    lvsUuid: made ? STORE_UUID : undefined,
    freeSpace: made && is.zeroed ? "ZEROED" : "UNKNOWN",
    zeroRequestedTime: zeroRequested ? NOW : undefined,
    wipe: is.transport === "PCIe" ? wipeOf(is) : undefined,
    pendingOp: is.transport === "PCIe" && isOfController(is.pendingOp) ? undefined : is.pendingOp,
  });
}

function wipeOf({ wipe, against, contents }: Parts): DiskRow["wipe"] {
  if (wipe === "none") return undefined;
  const found = evidenceOf(IDENTITY, inspect({ against, contents }, "claim"));
  // Never of a disk that somebody uses, or that nobody can read.
  const lost = found.filter((item) => !isUse(item) && item.kind !== "UNREADABLE");
  const begun = wipe === "begun" ? { time: NOW, functions: [ADDRESS] } : undefined;
  const asked = wipe === "other" ? [evidence("SIGNATURE")] : lost;
  return { requestedTime: NOW, evidence: asked, reason: "test", begun };
}

const isOfController = (pending: PendingOp | undefined) =>
  pending?.op === "attach" || pending?.op === "detach";

function controllerOf(is: Parts, driver: string | undefined): ControllerRow {
  const { serial, model } = IDENTITY;
  return {
    ...newControllerRow("node-1", { id: ADDRESS, serial, model, driver }, NOW),
    originalDriver: is.claimedOnce && driver !== "nvme" ? "nvme" : undefined,
    members: is.claimedOnce && driver !== "nvme" ? [ADDRESS] : [],
    pendingOp: isOfController(is.pendingOp) ? is.pendingOp : undefined,
  };
}

/** Makes a possible world of parts that are each possible. */
export function worldOf(is: Parts): World {
  const pcie = is.transport === "PCIe";
  const attached = is.attached && !(pcie && is.pulled);
  const driver = pcie ? (attached ? VFIO : is.driver) : undefined;
  const row = rowOf(is, driver);
  const { contents } = is;
  // Blank when it was claimed: since then only a store of ours can have come.
  const stillBlank = contents.kind === "nothing" || isOurs(contents, row);
  const claimedBlank = is.claimedBlank && driver === VFIO && is.claimedOnce && stillBlank;
  const stored = contents.kind === "store";
  const world: World = {
    ...is,
    row,
    controller: controllerOf(is, driver),
    driver,
    attached,
    claimedBlank,
    evidence: undefined,
    pulled: pcie && is.pulled,
    // Only what the kernel shows can have a double.
    duplicate: pcie && is.duplicate,
    slices: isOurs(contents, row) && row.lvsUuid !== undefined ? is.slices : [],
    pinned: false,
    dirty: is.dirty && row.lvsUuid !== undefined,
    loaded: attached && stored && is.loaded,
    foundEmpty: is.foundEmpty && driver === VFIO && !claimedBlank && !stored,
    loadEnded: is.loadEnded && attached && !stored,
    exportsLeft: attached && stored && is.loaded ? is.exportsLeft : 0,
  };
  if (driver === "nvme" && is.evidence !== "none") {
    // What was seen may be old.
    const old = is.evidence === "mounted" ? [evidence("MOUNTED")] : [];
    world.evidence = is.evidence === "true" ? inspect(world, "discover") : old;
  }
  return world;
}

function isOurs(contents: Contents, row: DiskRow): boolean {
  if (contents.kind !== "store" || contents.store.name !== NAME) return false;
  return row.lvsUuid === undefined ? row.lvsName === NAME : contents.store.uuid === row.lvsUuid;
}

/** The parts of any world in which these are as given. */
export function worlds(
  given: { readonly [Key in keyof Parts]?: fc.Arbitrary<Parts[Key]> } = {},
): fc.Arbitrary<Parts> {
  return fc.record({ ...PARTS, ...given });
}
