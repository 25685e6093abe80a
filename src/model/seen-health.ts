// The health of a disk as it is told: by conditions, explanations and refusals.
import type { Condition } from "./condition.ts";
import {
  SEVERITY,
  type DiskHealth,
  type HealthPage,
  type HealthReason,
  type HealthSample,
  type RecordedHealth,
} from "./disk-health.ts";

/** As last read, also by an earlier agent. */
export type SeenHealth = {
  readonly health: DiskHealth;
  readonly reasons: readonly HealthReason[];
  /** The last health page; undefined: there was none. */
  readonly sample: HealthSample | undefined;
  /** When the disk was last looked at; undefined: never. */
  readonly time: Date | undefined;
};

type Recorded = RecordedHealth & { readonly healthTime: Date | undefined };

/** What the row of a disk says, while this agent has not looked itself. */
export function recordedHealth(row: Recorded): SeenHealth {
  const { health, healthReasons: reasons, healthSample: sample, healthTime: time } = row;
  return { health, reasons, sample, time };
}

/** What is wrong, one sentence for each reason; empty if nothing is. */
export function healthText({ reasons, sample }: Pick<SeenHealth, "reasons" | "sample">): string {
  return reasons.map((reason) => `${reason}: ${TEXT[reason](sample)}`).join("; ");
}

/** Why a disk takes no new volumes, and what lies on it should go elsewhere; undefined: it may be used. */
export function diskFailure(row: Recorded | undefined): string | undefined {
  if (row?.health !== "FAILED") return undefined;
  const fatal = row.healthReasons.filter((reason) => SEVERITY[reason] === "FAILED");
  return healthText({ reasons: fatal, sample: row.healthSample });
}

/** The numbers of a health page, for people. */
export function pageText({ page, link }: HealthSample): string {
  const { temperatureCelsius: celsius, sparePercent, usedPercent, mediaErrors } = page;
  const warm = celsius === undefined ? "temperature not measured" : `${celsius} °C`;
  const pcie = link === undefined ? "" : `, PCIe ${link.lanes} lanes at ${link.gigatransfers} GT/s`;
  return (
    `${warm}, ${sparePercent} % spare (threshold ${page.spareThresholdPercent} %), ` +
    `${usedPercent} % of its rated writes used, ${mediaErrors} media errors, ` +
    `on for ${page.powerOnHours} h${pcie}`
  );
}

type Text = (sample: HealthSample | undefined) => string;

const ofPage =
  (text: (page: HealthPage) => string, otherwise: string): Text =>
  (sample) =>
    sample === undefined ? otherwise : text(sample.page);

const TEXT: Readonly<Record<HealthReason, Text>> = {
  SPARE_BELOW_THRESHOLD: ofPage(
    ({ sparePercent, spareThresholdPercent }) =>
      `${sparePercent} % of its spare blocks are left, its threshold is ${spareThresholdPercent} %`,
    "its spare blocks are used up",
  ),
  TEMPERATURE_CRITICAL: ofPage(
    ({ temperatureCelsius: celsius }) =>
      `beyond its own limits of temperature${celsius === undefined ? "" : ` (${celsius} °C)`}`,
    "beyond its own limits of temperature",
  ),
  RELIABILITY_DEGRADED: ofPage(
    ({ mediaErrors }) => `it says that it is not reliable any more (${mediaErrors} media errors)`,
    "it says that it is not reliable any more",
  ),
  READ_ONLY: () => "it takes no writes any more",
  BACKUP_FAILED: () => "what it has acknowledged may be lost when its power fails",
  OTHER_WARNING: ofPage(
    ({ criticalWarning }) => `critical warning 0x${criticalWarning.toString(16)}`,
    "a critical warning of an unknown kind",
  ),
  WEAR_HIGH: ofPage(
    ({ usedPercent }) => `${usedPercent} % of the writes that it is rated for are used`,
    "most of the writes that it is rated for are used",
  ),
  TEMPERATURE_HIGH: ofPage(
    ({ temperatureCelsius: celsius }) => (celsius === undefined ? "it is hot" : `${celsius} °C`),
    "it is hot",
  ),
  MEDIA_ERRORS_RISING: ofPage(
    ({ mediaErrors }) => `it has new media errors (${mediaErrors} in all)`,
    "it has new media errors",
  ),
  ERROR_LOG_RISING: ofPage(
    ({ errorLogEntries }) => `its error log grows (${errorLogEntries} entries in all)`,
    "its error log grows",
  ),
  LINK_SLOW: (sample) => {
    if (sample?.link === undefined) return "its PCIe link is slower than it could be";
    const { lanes, gigatransfers, maxLanes, maxGigatransfers } = sample.link;
    return (
      `its PCIe link has ${lanes} lanes at ${gigatransfers} GT/s, and could have ` +
      `${maxLanes} at ${maxGigatransfers} GT/s`
    );
  },
  CONTROLLER_FAILED: () => "SPDK has given its controller up",
  CONTROLLER_RESETTING: () => "its controller does not answer and is being reset",
  PAGE_UNREADABLE: () => "its health page cannot be read any more",
};

/** The condition Healthy of a disk; DEGRADED is no reason not to use it, but is not healthy. */
export function healthCondition(seen: SeenHealth): Condition<"Healthy"> {
  const type = "Healthy";
  const { health, time } = seen;
  switch (health) {
    case "OK":
      return { type, status: "TRUE", reason: "Ok", message: "" };
    case "DEGRADED":
      return { type, status: "FALSE", reason: "Degraded", message: healthText(seen) };
    case "FAILED":
      return { type, status: "FALSE", reason: "Failed", message: healthText(seen) };
    case "UNKNOWN":
      return time === undefined
        ? { type, status: "UNKNOWN", reason: "NotMeasured", message: "" }
        : { type, status: "UNKNOWN", reason: "NoHealthPage", message: NO_PAGE };
  }
}

export const NO_PAGE = "its controller gives no health page, or an empty one";
