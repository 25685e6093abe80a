// Conditions: one aspect of an object's state each, modelled on Kubernetes conditions.

export type ConditionStatus = "TRUE" | "FALSE" | "UNKNOWN";

/** What a volume needs to be UP: TRUE is the normal status. */
export type LvolNeed = "LvolCreated" | "SizeReached" | "Exported" | "TargetConnected" | "DiskReady";

/** What is wrong with a part of a volume that may well be UP: listed only while it holds. */
export type LvolWarning =
  | "ListenerMissing"
  | "HostRefused"
  | "HostsUnconfirmed"
  | "QosRefused"
  | "SpaceLow"
  | "DiskFailing"
  | "OldBytesExposed"
  | "Waiting"
  | "OutcomeUnknown";

export type LvolConditionType = LvolNeed | LvolWarning;

export type DiskConditionType =
  | "Admitted"
  | "Claimed"
  | "Attached"
  | "StoreReady"
  | "FreeSpaceZeroed"
  | "DiscardZeroes"
  | "Healthy"
  | "Schedulable"
  /** These are listed only while they hold. */
  | "Conflict"
  | "Wiped"
  | "OldBytesExposed"
  | "SpaceLow"
  | "OutcomeUnknown";

export type NodeConditionType =
  | "DatabaseReachable"
  | "TargetConnected"
  | "LeaseHeld"
  | "LocalLockHeld"
  | "ChangesCommitted"
  | "StateDirUsable"
  | "OnHold"
  | "HostsUnconfirmed";

/**
 * reason is one word for machines, message a sentence for people (empty where nothing is wrong).
 */
export type Condition<Type extends string = string> = {
  readonly type: Type;
  readonly status: ConditionStatus;
  readonly reason: string;
  readonly message: string;
};
