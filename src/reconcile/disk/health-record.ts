// What of the health of a disk is written to its row: a change of its class or its reasons at once,
// otherwise one sample an hour, so that a disk that stays as it is costs nothing. Pure.
import { isDeepStrictEqual } from "node:util";
import { HEALTH_RECORD_MS } from "../../limits.ts";
import type { DiskRow, DiskStatusPatch } from "../../model/disk.ts";
import type { SeenHealth } from "../../model/seen-health.ts";

/** Empty: nothing is to be written. */
export function healthPatch({
  row,
  health: seen,
}: {
  readonly row: Pick<DiskRow, "health" | "healthReasons" | "healthTime">;
  /** Undefined: this agent has not looked yet. */
  readonly health?: SeenHealth | undefined;
}): DiskStatusPatch {
  if (seen?.time === undefined) return {};
  const { health, reasons: healthReasons, time: healthTime, sample: healthSample } = seen;
  const same = row.health === health && isDeepStrictEqual(row.healthReasons, healthReasons);
  const sinceMs = healthTime.getTime() - (row.healthTime?.getTime() ?? -Infinity);
  if (same && sinceMs < HEALTH_RECORD_MS) return {};
  return { health, healthReasons, healthTime, healthSample };
}
