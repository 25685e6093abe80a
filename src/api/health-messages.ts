// The health of a disk as a message, as it was last seen and how long ago.
import type { DiskHealth, HealthPage } from "../gen/storagenode/v1/node.ts";
import { DiskHealthState } from "../gen/storagenode/v1/node.ts";
import type { HealthSample } from "../model/disk-health.ts";
import type { DiskReadiness, DiskRow } from "../model/disk.ts";
import { healthText, recordedHealth } from "../model/seen-health.ts";

/** What this agent has seen, else what the row says. */
export function healthMessage(
  row: DiskRow,
  { health: own }: Pick<DiskReadiness, "health">,
): DiskHealth {
  const { health, reasons, sample, time } = own ?? recordedHealth(row);
  return {
    diskId: row.id,
    state: DiskHealthState[`DISK_HEALTH_STATE_${health}`],
    reasons: health === "UNKNOWN" ? [unknown(time)] : [...reasons],
    age: time && ageOf(time),
    message: healthText({ reasons, sample }),
    page: sample && pageMessage(sample),
  };
}

function unknown(time: Date | undefined): string {
  return time === undefined ? "NOT_MEASURED" : "NO_HEALTH_PAGE";
}

function ageOf(time: Date) {
  const ms = Math.max(0, Date.now() - time.getTime());
  return { seconds: BigInt(Math.floor(ms / 1_000)), nanos: (ms % 1_000) * 1_000_000 };
}

function pageMessage({ time, page, link }: HealthSample): HealthPage {
  return {
    time,
    criticalWarning: page.criticalWarning,
    temperatureCelsius: page.temperatureCelsius,
    sparePercent: page.sparePercent,
    spareThresholdPercent: page.spareThresholdPercent,
    usedPercent: page.usedPercent,
    mediaErrors: atMost64(page.mediaErrors),
    errorLogEntries: atMost64(page.errorLogEntries),
    powerOnHours: atMost64(page.powerOnHours),
    unsafeShutdowns: atMost64(page.unsafeShutdowns),
    link: link && { ...link },
  };
}

const MAX_64 = 2n ** 64n - 1n;

function atMost64(count: bigint): bigint {
  return count > MAX_64 ? MAX_64 : count;
}
