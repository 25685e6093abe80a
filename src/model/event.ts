// Events: what happened to which object, and why. What is told of an intent is made here. Pure.
import type { Mutation } from "./admission.ts";
import type { DiskRow } from "./disk.ts";
import type { LvolRow } from "./lvol.ts";
import type { SnapshotRow } from "./snapshot.ts";

export type EventReason =
  | "PROVISION_REQUESTED"
  | "DELETE_REQUESTED"
  | "SNAPSHOT_REQUESTED"
  | "ORPHAN_ADOPTED"
  | "RESIZE_REQUESTED"
  | "UPDATE_REQUESTED"
  | "HOST_ALLOWED"
  | "HOST_REVOKED"
  | "HOSTS_CONFIRMED"
  | "DISK_ADMITTED"
  | "RELEASE_REQUESTED"
  | "DISK_ADOPTED"
  | "ZEROING_REQUESTED"
  | "CORDONED"
  | "UNCORDONED"
  | "ADMISSION_ENDED"
  | "WIPE_REQUESTED"
  | "DISK_WIPED"
  | "WIPE_ENDED"
  | "INSPECTION_REQUESTED"
  | "ORPHAN_PURGED"
  | "LOCATE_SWITCHED"
  | "OUTCOME_RESOLVED"
  /** A step failed for the first time since it was last done, or for another reason than before. */
  | "STEP_FAILED"
  /** A step failed in a way that only a new intent can mend. */
  | "GAVE_UP"
  | "STATE_CHANGED"
  | "HEALTH_CHANGED"
  | "CONDITION_CHANGED"
  /** Volumes of the disk became reachable, or are no longer, while new clusters of it may hold old bytes. */
  | "OLD_BYTES_EXPOSED"
  | "TARGET_RESTARTED"
  | "LEASE_ACQUIRED"
  | "EVENTS_DROPPED";

export type ObjectKind = "lvol" | "snapshot" | "disk" | "controller" | "node";

export type Event = {
  readonly objectKind: ObjectKind;
  readonly objectId: string;
  readonly reason: EventReason;
  /** A state, fields as JSON, or the text of a failure; empty if there was none. */
  readonly before: string;
  readonly after: string;
  /** Why, for people. */
  readonly message: string;
  /** Who asked; empty: nobody. */
  readonly actor: string;
  /** Of the intent or the step that it belongs to; empty: it was not traced. */
  readonly traceId: string;
  readonly time: Date;
};

/** An event without what it does not have. */
export function eventOf(
  given: Pick<Event, "objectKind" | "objectId" | "reason"> & Partial<Event>,
): Event {
  const nothing = { before: "", after: "", message: "", actor: "", traceId: "" };
  return { ...nothing, time: new Date(), ...given };
}

type RowPair<Kind, Row> = {
  readonly kind: Kind;
  /** Undefined: the intent has made the row. */
  readonly before: Row | undefined;
  readonly after: Row;
};

/** A row that an intent has changed. */
export type IntentChange =
  RowPair<"lvol", LvolRow> | RowPair<"snapshot", SnapshotRow> | RowPair<"disk", DiskRow>;

const LVOL_SHOWN = [
  "diskId",
  "sizeBytes",
  "thin",
  "hosts",
  "allowAnyHost",
  "unconfirmedHosts",
  "qos",
  "labels",
  "deleteForced",
] as const satisfies readonly (keyof LvolRow)[];

const SNAPSHOT_SHOWN = [
  "diskId",
  "sourceLvolId",
  "labels",
  "deleteDeferred",
] as const satisfies readonly (keyof SnapshotRow)[];

const DISK_SHOWN = [
  "admitted",
  "admittedSerial",
  "admissionEnded",
  "wanted",
  "cordoned",
  "discardZeroes",
] as const satisfies readonly (keyof DiskRow)[];

/** The events of one intent that was committed: one for each row that it has changed. */
export function intentEvents(
  mutation: Mutation,
  changes: readonly IntentChange[],
  time: Date,
): readonly Event[] {
  const { actor, traceparent } = mutation;
  const reason = reasonOf(mutation);
  const message = "reason" in mutation ? mutation.reason : "";
  const shared = { reason, message, actor, traceId: traceIdOf(traceparent), time };
  if (mutation.kind === "inspectController") {
    return [eventOf({ ...shared, objectKind: "controller", objectId: mutation.id })];
  }
  if (mutation.kind === "cordon" && mutation.of === "node") {
    return [eventOf({ ...shared, objectKind: "node", objectId: mutation.id })];
  }
  return changes.map((change) => {
    const [before, after] = difference(change);
    const object = { objectKind: change.kind, objectId: change.after.id } as const;
    return eventOf({ ...shared, ...object, before, after });
  });
}

function reasonOf(mutation: Mutation): EventReason {
  switch (mutation.kind) {
    case "provision":
      return "PROVISION_REQUESTED";
    case "delete":
    case "deleteSnapshot":
      return "DELETE_REQUESTED";
    case "snapshot":
      return "SNAPSHOT_REQUESTED";
    case "resize":
      return "RESIZE_REQUESTED";
    case "update":
      return "UPDATE_REQUESTED";
    case "adoptOrphan":
      return "ORPHAN_ADOPTED";
    case "allowHost":
      return "HOST_ALLOWED";
    case "revokeHost":
      return "HOST_REVOKED";
    case "confirmHosts":
      return "HOSTS_CONFIRMED";
    case "admitDisk":
      return "DISK_ADMITTED";
    case "releaseDisk":
      return "RELEASE_REQUESTED";
    case "adoptDisk":
      return "DISK_ADOPTED";
    case "inspectDisk":
    case "inspectController":
      return "INSPECTION_REQUESTED";
    case "endAdmission":
      return "ADMISSION_ENDED";
    case "wipeDisk":
      return "WIPE_REQUESTED";
    case "zeroFreeSpace":
      return "ZEROING_REQUESTED";
    case "cordon":
      return mutation.cordoned ? "CORDONED" : "UNCORDONED";
  }
}

function difference(change: IntentChange): readonly [string, string] {
  switch (change.kind) {
    case "lvol":
      return changedFields(LVOL_SHOWN, change.before, change.after);
    case "snapshot":
      return changedFields(SNAPSHOT_SHOWN, change.before, change.after);
    case "disk":
      return changedFields(DISK_SHOWN, change.before, change.after);
  }
}

/** The fields that differ, as JSON before and after; of a new row those that are set. */
function changedFields<Row extends object>(
  shown: readonly (keyof Row & string)[],
  before: Row | undefined,
  after: Row,
): readonly [string, string] {
  const texts = shown.map(
    (field) => [field, textOf(before?.[field]), textOf(after[field])] as const,
  );
  const changed = texts.filter(
    ([, was, is]) => was !== is && !(before === undefined && isUnset(is)),
  );
  if (changed.length === 0) return ["", ""];
  const object = (index: 1 | 2) =>
    `{${changed.map((texts) => `"${snake(texts[0])}":${texts[index]}`).join(",")}}`;
  return [before === undefined ? "" : object(1), object(2)];
}

/** JSON, with bigint as text as in JSON of protobuf; `null` for undefined. */
function textOf(value: unknown): string {
  const text = JSON.stringify(value, (_key, part: unknown) =>
    typeof part === "bigint" ? part.toString() : part,
  );
  return text ?? "null";
}

function isUnset(text: string): boolean {
  return ["null", "false", "[]", "{}"].includes(text);
}

function snake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** The trace of a W3C traceparent. */
export function traceIdOf(traceparent: string | undefined): string {
  return traceparent?.split("-")[1] ?? "";
}
