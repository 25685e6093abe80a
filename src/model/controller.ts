// A controller: a PCI function of an NVMe drive, which is what is taken from the kernel and given back
// (docs/architecture.md#controllers-and-disks). Its disks are the rows with its serial and model.
import type { ColumnOwner, OwnedBy } from "./column-owner.ts";
import type { StepFailures } from "./failure.ts";
import type { PendingOp } from "./pending-op.ts";

export const CONTROLLER_STATES = [
  "AVAILABLE",
  "CLAIMED",
  "ATTACHED",
  "UNIDENTIFIED",
  "REJECTED",
  "CONFLICT",
  "FAILED",
  "MISSING",
] as const;

export type ControllerState = (typeof CONTROLLER_STATES)[number];

/** A claim that failed for good: the controller is given back, and tried again after a long while. */
export type Setback = {
  /** Such failures in a row, at least 1. */
  readonly attempt: number;
  /** Refused tries that it was given back after, of all that were made; more of them are new ones. */
  readonly tries: number;
  /** Cause and cure, for people. */
  readonly reason: string;
  /** Incarnation of the target that it failed in: another one may do better. */
  readonly run: string;
  readonly nextTryTime: Date;
};

export type ControllerRow = {
  /** Its PCI address. */
  readonly id: string;
  readonly nodeId: string;
  /** Of the drive that was read there last, by the kernel or by the target; undefined: none was. */
  readonly serial: string | undefined;
  readonly model: string | undefined;
  // desired state
  /** A call asked for a look at a function that was on vfio-pci already; undefined: done, or never. */
  readonly inspectRequestedTime: Date | undefined;
  /** The serial of the only drive whose disks are then admitted; undefined: of any. */
  readonly inspectSerial: string | undefined;
  readonly generation: bigint;
  /** Who asked for the present intent. */
  readonly actor: string | undefined;
  readonly traceparent: string | undefined;
  // recorded status
  readonly observedGeneration: bigint;
  readonly state: ControllerState;
  readonly stateReason: string;
  readonly driver: string | undefined;
  readonly iommuGroup: string | undefined;
  /** The driver that the agent has taken it from, recorded before; undefined: it has not taken it. */
  readonly originalDriver: string | undefined;
  /** Addresses of the functions that were taken together, this one included. */
  readonly members: readonly string[];
  readonly controllerName: string | undefined;
  readonly setback: Setback | undefined;
  readonly pendingOp: PendingOp | undefined;
  readonly failures: StepFailures;
  readonly lastError: string | undefined;
  readonly attempt: number;
  readonly nextTryTime: Date | undefined;
  readonly lastSeenTime: Date;
  readonly revision: bigint;
  readonly createTime: Date;
  readonly updateTime: Date;
};

/** Which part of the agent writes each column. */
export const CONTROLLER_COLUMNS = {
  id: "fixed",
  nodeId: "fixed",
  serial: "status",
  model: "status",
  inspectRequestedTime: "both",
  inspectSerial: "both",
  generation: "intent",
  actor: "intent",
  traceparent: "intent",
  observedGeneration: "status",
  state: "status",
  stateReason: "status",
  driver: "status",
  iommuGroup: "status",
  originalDriver: "status",
  members: "status",
  controllerName: "status",
  setback: "both",
  pendingOp: "status",
  failures: "both",
  lastError: "status",
  attempt: "both",
  nextTryTime: "both",
  lastSeenTime: "status",
  revision: "writer",
  createTime: "fixed",
  updateTime: "writer",
} as const satisfies Readonly<Record<keyof ControllerRow, ColumnOwner>>;

/** Status of a controller that a loop records; absent fields stay unchanged. */
export type ControllerStatusPatch = Partial<
  Pick<ControllerRow, OwnedBy<typeof CONTROLLER_COLUMNS, "status" | "both">>
>;

type NewController = Pick<ControllerRow, "id"> &
  Partial<
    Pick<
      ControllerRow,
      "serial" | "model" | "driver" | "iommuGroup" | "originalDriver" | "members" | "controllerName"
    >
  >;

/** The row of a function that was not known, without anything that was recorded or asked for later. */
export function newControllerRow(nodeId: string, found: NewController, now: Date): ControllerRow {
  return {
    serial: undefined,
    model: undefined,
    driver: undefined,
    iommuGroup: undefined,
    originalDriver: undefined,
    members: [],
    controllerName: undefined,
    ...found,
    nodeId,
    inspectRequestedTime: undefined,
    inspectSerial: undefined,
    generation: 1n,
    actor: undefined,
    traceparent: undefined,
    observedGeneration: 0n,
    state: "AVAILABLE",
    stateReason: "",
    setback: undefined,
    pendingOp: undefined,
    failures: {},
    lastError: undefined,
    attempt: 0,
    nextTryTime: undefined,
    lastSeenTime: now,
    revision: 0n,
    createTime: now,
    updateTime: now,
  };
}

/** Whether the drive that was read there last is the one of the disk. */
export function hasDrive(
  { serial, model }: Pick<ControllerRow, "serial" | "model">,
  disk: { readonly serial: string; readonly model: string },
): boolean {
  return serial === disk.serial && model === disk.model;
}
