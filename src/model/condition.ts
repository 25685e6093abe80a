// One aspect of an object's state, as Kubernetes conditions have them.

export type ConditionStatus = "TRUE" | "FALSE" | "UNKNOWN";

export type LvolConditionType =
  "LvolCreated" | "SizeReached" | "Exported" | "TargetConnected" | "DiskReady";

export type DiskConditionType =
  "Claimed" | "Attached" | "StoreReady" | "FreeSpaceZeroed" | "Healthy" | "Schedulable";

export type NodeConditionType =
  "DatabaseReachable" | "TargetConnected" | "LeaseHeld" | "LocalLockHeld" | "OnHold";

/** reason is one word for machines, message a sentence for people (empty where nothing is wrong). */
export type Condition<Type extends string = string> = {
  readonly type: Type;
  readonly status: ConditionStatus;
  readonly reason: string;
  readonly message: string;
};
