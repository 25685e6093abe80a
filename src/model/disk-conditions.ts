// The conditions of a disk, from its row and what was observed of it.
import type { Condition, DiskConditionType } from "./condition.ts";
import { NOT_LOOKED_AT, type DiskReadiness, type DiskRow, type Exposure } from "./disk.ts";
import { freeSpaceDirt } from "./free-space.ts";
import { diskFailure, healthCondition, recordedHealth } from "./seen-health.ts";
import { spaceConditions } from "./space.ts";
import { TARGET_AWAY } from "./target-process.ts";
import { outcomeConditions } from "./unknown-outcome.ts";

export function diskConditions(
  row: DiskRow,
  observed: DiskReadiness,
): readonly Condition<DiskConditionType>[] {
  const why = observed.reason === "" ? row.stateReason : observed.reason;
  return [
    admittedCondition(row),
    conditionOf("Claimed", row.controllerName !== undefined, "NotClaimed", why),
    conditionOf("Attached", observed.ready, notAttached(why), why),
    conditionOf("StoreReady", observed.ready && row.lvsUuid !== undefined, "NoStore", why),
    zeroedCondition(row, observed),
    discardCondition(row, observed),
    healthCondition(observed.health ?? recordedHealth(row)),
    schedulable(row, observed),
    ...exposedConditions(row, observed),
    ...spaceConditions(observed.space),
    ...conflictConditions(observed.conflict),
    ...wipeConditions(row),
    ...outcomeConditions(observed.outcomeUnknown),
  ];
}

function notAttached(why: string): string {
  if (why === NOT_LOOKED_AT) return "NotLookedAt";
  return why === TARGET_AWAY ? "TargetAway" : "NotAttached";
}

function schedulable(row: DiskRow, observed: DiskReadiness): Condition<DiskConditionType> {
  const type = "Schedulable";
  if (row.cordoned)
    return conditionOf(type, false, "Cordoned", "cordoned: it takes no new volumes");
  // As admission does, by what is recorded.
  const failure = diskFailure(row);
  if (failure !== undefined) {
    return conditionOf(type, false, "Failed", `it takes no new volumes: ${failure}`);
  }
  const why = observed.reason === "" ? row.stateReason : observed.reason;
  return conditionOf(type, observed.ready, "NotUp", why);
}

function zeroedCondition(
  row: DiskRow,
  { discardsFree: hostsMayFree = false, zeroesByItself = false, copied = false }: DiskReadiness,
): Condition<DiskConditionType> {
  if (copied) {
    const message = "the database was not read since the agent started";
    return { type: "FreeSpaceZeroed", status: "UNKNOWN", reason: "NotRead", message };
  }
  if (row.lvsUuid === undefined) {
    return conditionOf("FreeSpaceZeroed", false, "NoStore", "it has no lvstore");
  }
  const { reason, found, cure } = freeSpaceDirt(row, { hostsMayFree, zeroesByItself });
  const message = `free clusters ${found}; ${cure}`;
  return conditionOf("FreeSpaceZeroed", row.freeSpace === "ZEROED", reason, message);
}

/** While hosts may be shown old bytes. */
function exposedConditions(
  row: DiskRow,
  { exposure }: DiskReadiness,
): readonly Condition<DiskConditionType>[] {
  if (exposure === undefined || exposure.reachable === 0) return [];
  return [
    {
      type: "OldBytesExposed",
      status: "TRUE",
      reason: row.freeSpace === "ZEROED" ? "NotRecorded" : "NotZeroed",
      message: exposedText(exposure),
    },
  ];
}

/** What hosts may see while free clusters are not zeroed. */
export function exposedText({ reachable }: Exposure): string {
  return (
    `${reachable} volumes that are in use take clusters of it: until its free space is zeroed, a host ` +
    `that writes a part of a new cluster may read bytes of deleted volumes in the rest of it`
  );
}

function admittedCondition({ admitted, admissionEnded }: DiskRow): Condition<DiskConditionType> {
  const ended = admissionEnded !== undefined;
  const reason = ended ? "EvidenceChanged" : "NotAdmitted";
  return conditionOf("Admitted", admitted, reason, admissionEnded ?? "nobody has admitted it");
}

function conflictConditions(why: string | undefined): readonly Condition<DiskConditionType>[] {
  if (why === undefined) return [];
  return [{ type: "Conflict", status: "TRUE", reason: "SeenTwice", message: why }];
}

/** While a wipe is to be done, and after one that could not be. */
function wipeConditions({
  wipe,
  wipeEnded,
  lastError,
}: DiskRow): readonly Condition<DiskConditionType>[] {
  const type = "Wiped";
  if (wipe === undefined) {
    if (wipeEnded === undefined) return [];
    return [{ type, status: "FALSE", reason: "NotDone", message: wipeEnded }];
  }
  const reason = wipe.begun === undefined ? "Pending" : "Begun";
  const asked = `asked for at ${wipe.requestedTime.toISOString()}: ${wipe.reason}`;
  const message = lastError === undefined ? asked : `${asked}; ${lastError}`;
  return [{ type, status: "FALSE", reason, message }];
}

function discardCondition(
  { discardZeroes }: DiskRow,
  { discardsFree = false }: DiskReadiness,
): Condition<DiskConditionType> {
  const type = "DiscardZeroes";
  if (discardZeroes) return { type, status: "TRUE", reason: "Asserted", message: "" };
  if (!discardsFree) return { type, status: "UNKNOWN", reason: "NotNeeded", message: "" };
  const message =
    "hosts return clusters by discarding them, and nobody has asserted that this disk zeroes these: " +
    "its free clusters may hold old bytes";
  return { type, status: "FALSE", reason: "NotAsserted", message };
}

function conditionOf(
  type: DiskConditionType,
  holds: boolean,
  reason: string,
  message: string,
): Condition<DiskConditionType> {
  return holds
    ? { type, status: "TRUE", reason: "Yes", message: "" }
    : { type, status: "FALSE", reason, message };
}
