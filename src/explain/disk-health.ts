// What an explanation says of the health of a drive. Pure.
import type { DiskRow } from "../model/disk.ts";
import {
  diskFailure,
  healthText,
  NO_PAGE,
  pageText,
  recordedHealth,
  type SeenHealth,
} from "../model/seen-health.ts";
import type { Cause, Check } from "./explanation.ts";

/** A drive that is FAILED takes no new volumes. */
export function failingCause(row: DiskRow): Cause | undefined {
  const failure = diskFailure(row);
  if (failure === undefined) return undefined;
  return {
    cause: `the drive is failing, so it takes no new volumes: ${failure}`,
    cure:
      `copy the data of its volumes to other disks and Delete them, then replace the drive; ` +
      `nothing on it is changed or deleted until then`,
    waits: "all else is as wanted",
  };
}

/** As last seen, and when: a drive that cannot be asked now may be worse by now. */
export function healthCheck({
  row,
  health: own,
  node: { now },
}: {
  readonly row: DiskRow;
  /** As this agent has last seen it; undefined: as the row says. */
  readonly health?: SeenHealth | undefined;
  readonly node: { readonly now: Date };
}): Check {
  const question = "Is the drive healthy?";
  const seen = own ?? recordedHealth(row);
  const { health, sample, time } = seen;
  if (time === undefined) {
    return { question, answer: "UNKNOWN", evidence: "it was not looked at yet", remedy: "" };
  }
  const seconds = Math.max(0, Math.round((now.getTime() - time.getTime()) / 1_000));
  const told = (text: string) => `${text}; seen ${seconds} s ago`;
  const page = sample === undefined ? NO_PAGE : pageText(sample);
  if (health === "UNKNOWN" || health === "OK") {
    const answer = health === "OK" ? "YES" : "UNKNOWN";
    return { question, answer, evidence: told(page), remedy: "" };
  }
  const remedy =
    health === "FAILED"
      ? "copy the data of its volumes to other disks, then replace the drive"
      : "it is used as before; docs/troubleshooting.md says what each reason means";
  return { question, answer: "NO", evidence: told(`${healthText(seen)} (${page})`), remedy };
}
