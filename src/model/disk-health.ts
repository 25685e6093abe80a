// The health of a drive: what one look at it shows, and the class that follows from many looks. Pure.
//
// A class changes only after looks in a row that agree: a few make it worse, many make it better. A look
// that does not tell counts for neither.

/** How a drive is. UNKNOWN: no health page of it was read, or it gives none. */
export const DISK_HEALTHS = ["UNKNOWN", "OK", "DEGRADED", "FAILED"] as const;

export type DiskHealth = (typeof DISK_HEALTHS)[number];

/** What can be wrong with a drive, and the class that it has then. */
export const SEVERITY = {
  /** Critical warning bit 0, or the spare is below the drive's own threshold. */
  SPARE_BELOW_THRESHOLD: "FAILED",
  /** Critical warning bit 1: beyond the drive's own limits of temperature. */
  TEMPERATURE_CRITICAL: "DEGRADED",
  /** Critical warning bit 2: media errors or internal errors. */
  RELIABILITY_DEGRADED: "FAILED",
  /** Critical warning bit 3: its media takes no writes any more. */
  READ_ONLY: "FAILED",
  /** Critical warning bit 4: what it has acknowledged may be lost with its power. */
  BACKUP_FAILED: "FAILED",
  /** A later bit of the critical warning. */
  OTHER_WARNING: "DEGRADED",
  WEAR_HIGH: "DEGRADED",
  TEMPERATURE_HIGH: "DEGRADED",
  MEDIA_ERRORS_RISING: "DEGRADED",
  ERROR_LOG_RISING: "DEGRADED",
  LINK_SLOW: "DEGRADED",
  /** SPDK has given the controller up. */
  CONTROLLER_FAILED: "FAILED",
  /** SPDK resets the controller, or waits to. */
  CONTROLLER_RESETTING: "DEGRADED",
  /** It gave a health page before, and does not now. */
  PAGE_UNREADABLE: "DEGRADED",
} as const satisfies Readonly<Record<string, "DEGRADED" | "FAILED">>;

export type HealthReason = keyof typeof SEVERITY;

export const HEALTH_REASONS: readonly HealthReason[] = Object.keys(SEVERITY).filter(isReason);

export function isReason(text: string): text is HealthReason {
  return text in SEVERITY;
}

/** What is too much. The first five are the operator's, and 0 switches one off. */
export type HealthThresholds = {
  /** Percent of the writes that the drive is rated for. */
  readonly wear: number;
  /** Degrees Celsius. */
  readonly temperature: number;
  /** New ones within the window. */
  readonly mediaErrors: number;
  /** New entries of the drive's error log within the window. */
  readonly errorLog: number;
  /** Percent of what the drive and its slot could transfer; less than that is slow. */
  readonly link: number;
  /** A temperature is no longer high once it is that much below its threshold. */
  readonly temperatureMargin: number;
  readonly windowMs: number;
  /** Looks in a row with which a reason begins, and without which it ends. */
  readonly raiseLooks: number;
  readonly clearLooks: number;
};

/** The health page of an NVMe controller (SMART log), of what is judged or shown. */
export type HealthPage = {
  /** Bit mask; 0: no warning. */
  readonly criticalWarning: number;
  /** Undefined: the drive does not measure it (0 K). */
  readonly temperatureCelsius: number | undefined;
  readonly sparePercent: number;
  readonly spareThresholdPercent: number;
  /** Of the writes that it is rated for; may be above 100. */
  readonly usedPercent: number;
  readonly mediaErrors: bigint;
  readonly errorLogEntries: bigint;
  readonly powerOnHours: bigint;
  readonly unsafeShutdowns: bigint;
};

/** A PCIe link as it is, and as the drive and its slot could have it at best. */
export type PcieLink = {
  readonly gigatransfers: number;
  readonly lanes: number;
  readonly maxGigatransfers: number;
  readonly maxLanes: number;
};

/** What was last read of a drive that gives a health page, as its row keeps it. */
export type HealthSample = {
  readonly time: Date;
  readonly page: HealthPage;
  readonly link: PcieLink | undefined;
};

/** One look at a drive. */
export type HealthLook = {
  readonly time: Date;
  /** Undefined: it gives none, or it could not be read. */
  readonly page: HealthPage | undefined;
  /** Whether the controller could have given a page and did not. */
  readonly pageRefused: boolean;
  readonly controller: "enabled" | "resetting" | "failed";
  readonly link: PcieLink | undefined;
};

type Doubt = {
  readonly active: boolean;
  /** Looks in a row that contradict `active`. */
  readonly streak: number;
};

type Counters = { readonly timeMs: number; readonly media: bigint; readonly log: bigint };

/** All that is kept of earlier looks. */
export type HealthMemory = {
  /** The last look with a page; undefined: there was none. */
  readonly sample: HealthSample | undefined;
  readonly doubts: ReadonlyMap<HealthReason, Doubt>;
  /** Of the looks within the window, the oldest first. */
  readonly counters: readonly Counters[];
};

/** What a row keeps of it: an agent that starts goes on from there. */
export type RecordedHealth = {
  readonly health: DiskHealth;
  readonly healthReasons: readonly HealthReason[];
  readonly healthSample: HealthSample | undefined;
};

/** The memory of an agent that has looked at nothing yet. */
export function rememberedHealth({ healthReasons, healthSample }: RecordedHealth): HealthMemory {
  const active = { active: true, streak: 0 };
  return {
    sample: healthSample,
    doubts: new Map(healthReasons.map((reason) => [reason, active])),
    counters: healthSample === undefined ? [] : [countersOf(healthSample)],
  };
}

/** The reasons that hold, in the order of SEVERITY. */
export function reasonsOf({ doubts }: Pick<HealthMemory, "doubts">): readonly HealthReason[] {
  return HEALTH_REASONS.filter((reason) => doubts.get(reason)?.active === true);
}

/** The class of a drive: that of its worst reason. */
export function healthOf(memory: HealthMemory): DiskHealth {
  const severities = reasonsOf(memory).map((reason) => SEVERITY[reason]);
  if (severities.includes("FAILED")) return "FAILED";
  if (severities.includes("DEGRADED")) return "DEGRADED";
  return memory.sample === undefined ? "UNKNOWN" : "OK";
}

/** Takes one more look into account. */
export function judge(
  before: HealthMemory,
  look: HealthLook,
  thresholds: HealthThresholds,
): HealthMemory {
  const { time, page, link } = look;
  const sample = page === undefined ? before.sample : { time, page, link };
  const counters = recent(before.counters, look, thresholds);
  // The first page decides at once: until then nothing was said of the drive.
  const raise = before.sample === undefined && page !== undefined ? 1 : thresholds.raiseLooks;
  const raised = new Map(
    HEALTH_REASONS.map((reason) => {
      const doubt = before.doubts.get(reason) ?? { active: false, streak: 0 };
      const shows = SHOWS[reason]({ look, thresholds, counters, before, active: doubt.active });
      return [reason, next(doubt, shows, raise)];
    }),
  );
  return { sample, counters, doubts: cleared(raised, thresholds) };
}

function next(doubt: Doubt, shows: boolean | undefined, raise: number): Doubt {
  // Of a reason that does not hold yet, looks that do not tell end the row of those that do.
  if (shows === undefined) return doubt.active ? doubt : { active: false, streak: 0 };
  if (shows === doubt.active) return { ...doubt, streak: 0 };
  const streak = doubt.streak + 1;
  return shows && streak >= raise ? { active: true, streak: 0 } : { ...doubt, streak };
}

/** Nothing ends while another reason may be about to begin: the class would get better and worse again. */
function cleared(
  doubts: ReadonlyMap<HealthReason, Doubt>,
  { clearLooks }: HealthThresholds,
): ReadonlyMap<HealthReason, Doubt> {
  if ([...doubts.values()].some(({ active, streak }) => !active && streak > 0)) return doubts;
  const ends = ({ active, streak }: Doubt) => active && streak >= clearLooks;
  return new Map(
    [...doubts].map(([reason, doubt]) => [
      reason,
      ends(doubt) ? { active: false, streak: 0 } : doubt,
    ]),
  );
}

type Shown = {
  readonly look: HealthLook;
  readonly thresholds: HealthThresholds;
  readonly counters: readonly Counters[];
  readonly before: Pick<HealthMemory, "sample">;
  /** Whether the reason holds now: it may end later than it begins. */
  readonly active: boolean;
};

const bit =
  (number: number) =>
  ({ look: { page } }: Shown): boolean | undefined =>
    page && (page.criticalWarning & (1 << number)) !== 0;

/** Whether a look shows the reason; undefined: it does not tell. */
const SHOWS: Readonly<Record<HealthReason, (shown: Shown) => boolean | undefined>> = {
  SPARE_BELOW_THRESHOLD: (shown) => {
    const { page } = shown.look;
    return page && (bit(0)(shown) === true || page.sparePercent < page.spareThresholdPercent);
  },
  TEMPERATURE_CRITICAL: bit(1),
  RELIABILITY_DEGRADED: bit(2),
  READ_ONLY: bit(3),
  BACKUP_FAILED: bit(4),
  OTHER_WARNING: ({ look: { page } }) => page && page.criticalWarning >> 5 !== 0,
  WEAR_HIGH: ({ look: { page }, thresholds: { wear } }) =>
    page && wear > 0 && page.usedPercent >= wear,
  TEMPERATURE_HIGH: ({ look: { page }, thresholds, active }) => {
    const { temperature, temperatureMargin } = thresholds;
    if (temperature === 0) return false;
    const celsius = page?.temperatureCelsius;
    if (celsius === undefined) return undefined;
    return celsius >= temperature - (active ? temperatureMargin : 0);
  },
  MEDIA_ERRORS_RISING: (shown) => isRising(shown, shown.thresholds.mediaErrors, "media"),
  ERROR_LOG_RISING: (shown) => isRising(shown, shown.thresholds.errorLog, "log"),
  LINK_SLOW: ({ look: { link }, thresholds: { link: percent } }) => {
    if (percent === 0) return false;
    return link && speed(link) * 100 < maxSpeed(link) * percent;
  },
  CONTROLLER_FAILED: ({ look: { controller } }) => controller === "failed",
  CONTROLLER_RESETTING: ({ look: { controller } }) => controller === "resetting",
  PAGE_UNREADABLE: ({ look: { pageRefused, controller }, before: { sample } }) =>
    pageRefused && controller === "enabled" && sample !== undefined,
};

function isRising(
  { look: { page }, counters }: Shown,
  threshold: number,
  key: "media" | "log",
): boolean | undefined {
  if (threshold === 0) return false;
  const [first] = counters;
  const last = counters.at(-1);
  if (page === undefined || first === undefined || last === undefined) return undefined;
  return last[key] - first[key] >= BigInt(threshold);
}

function speed({ gigatransfers, lanes }: PcieLink): number {
  return gigatransfers * lanes;
}

function maxSpeed({ maxGigatransfers, maxLanes }: PcieLink): number {
  return maxGigatransfers * maxLanes;
}

function countersOf({ time, page }: Pick<HealthSample, "time" | "page">): Counters {
  return { timeMs: time.getTime(), media: page.mediaErrors, log: page.errorLogEntries };
}

/** Counters that went back are those of another life of the drive: what was before says nothing. */
function recent(
  before: readonly Counters[],
  { time, page }: HealthLook,
  { windowMs }: HealthThresholds,
): readonly Counters[] {
  const since = time.getTime() - windowMs;
  const kept = before.filter(({ timeMs }) => timeMs >= since);
  if (page === undefined) return kept;
  const now = countersOf({ time, page });
  const comparable = kept.filter(({ media, log }) => media <= now.media && log <= now.log);
  return [...comparable, now];
}
