// Limits of a volume: what the target makes of them, and words for them. Pure.
import { alignUp } from "./bytes.ts";
import { QOS_KEY } from "./export-parts.ts";
import { wasRefused, type StepFailures } from "./failure.ts";
import {
  NO_LIMITS,
  sameLimits,
  type LvolRow,
  type ObservedVolume,
  type QosLimits,
} from "./lvol.ts";

/** The target rounds operations per second up to that (docs/spdk-contract.md#qos). */
const IOPS_STEP = 1_000n;

/** What the target shows once the wanted limits are in force; undefined are none. */
export function realLimits(wanted: QosLimits | undefined): QosLimits {
  const limits = wanted ?? NO_LIMITS;
  return { ...limits, rwIops: alignUp(limits.rwIops, IOPS_STEP) };
}

/** Whether the wanted limits are in force, or were refused by the target. */
export function limitsSettled({
  row,
  observed: { lvol },
  failures,
}: {
  readonly row: LvolRow;
  readonly observed: ObservedVolume;
  readonly failures: StepFailures;
}): boolean {
  if (lvol?.kind !== "present") return false;
  return sameLimits(lvol.limits, realLimits(row.qos)) || wasRefused(failures, QOS_KEY);
}

export function limitsText(limits: QosLimits): string {
  const { rwIops, rwMibPerSecond, readMibPerSecond, writeMibPerSecond } = limits;
  const parts = [
    [rwIops, "operations per second"],
    [rwMibPerSecond, "MiB per second"],
    [readMibPerSecond, "MiB per second read"],
    [writeMibPerSecond, "MiB per second written"],
  ] as const;
  const set = parts.flatMap(([value, unit]) => (value === 0n ? [] : [`${value} ${unit}`]));
  return set.length === 0 ? "nothing" : set.join(", ");
}
