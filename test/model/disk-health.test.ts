// The class of a drive from what it shows: at once where a drive says so itself, steady whatever it shows.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  DISK_HEALTHS,
  HEALTH_REASONS,
  healthOf,
  judge,
  reasonsOf,
  rememberedHealth,
  SEVERITY,
  type DiskHealth,
  type HealthLook,
  type HealthMemory,
  type HealthPage,
  type HealthThresholds,
  type PcieLink,
} from "../../src/model/disk-health.ts";

const THRESHOLDS: HealthThresholds = {
  wear: 90,
  temperature: 75,
  mediaErrors: 1,
  errorLog: 100,
  link: 100,
  temperatureMargin: 5,
  windowMs: 3_600_000,
  raiseLooks: 2,
  clearLooks: 10,
};

const PAGE: HealthPage = {
  criticalWarning: 0,
  temperatureCelsius: 40,
  sparePercent: 100,
  spareThresholdPercent: 10,
  usedPercent: 3,
  mediaErrors: 7n,
  errorLogEntries: 20n,
  powerOnHours: 9_000n,
  unsafeShutdowns: 2n,
};

const LINK: PcieLink = { gigatransfers: 16, lanes: 4, maxGigatransfers: 16, maxLanes: 4 };

const NEW: HealthMemory = rememberedHealth({
  health: "UNKNOWN",
  healthReasons: [],
  healthSample: undefined,
});

const at = (minute: number) => new Date(Date.UTC(2026, 10, 1) + minute * 60_000);

const look = (page: Partial<HealthPage> = {}, other: Partial<HealthLook> = {}): HealthLook => ({
  time: at(0),
  page: { ...PAGE, ...page },
  pageRefused: false,
  controller: "enabled",
  link: LINK,
  ...other,
});

const refused: HealthLook = look({}, { page: undefined, pageRefused: true });

/** One look a minute. */
function after(
  looks: readonly HealthLook[],
  { from = NEW, thresholds = THRESHOLDS, minute = 0 } = {},
): HealthMemory {
  return looks.reduce(
    (memory, one, index) => judge(memory, { ...one, time: at(minute + index) }, thresholds),
    from,
  );
}

const times = (count: number, one: HealthLook) => Array.from({ length: count }, () => one);

const shown = (memory: HealthMemory) => [healthOf(memory), ...reasonsOf(memory)];

describe("the first look at a drive", () => {
  it.each([
    ["a good one", look(), ["OK"]],
    // What QEMU's drives show.
    [
      "one without spare and threshold",
      look({ sparePercent: 0, spareThresholdPercent: 0 }),
      ["OK"],
    ],
    ["one that measures no temperature", look({ temperatureCelsius: undefined }), ["OK"]],
    ["one at its threshold of spare", look({ sparePercent: 10 }), ["OK"]],
    ["one below it", look({ sparePercent: 9 }), ["FAILED", "SPARE_BELOW_THRESHOLD"]],
    ["one that says so", look({ criticalWarning: 1 }), ["FAILED", "SPARE_BELOW_THRESHOLD"]],
    [
      "one beyond its temperature",
      look({ criticalWarning: 2 }),
      ["DEGRADED", "TEMPERATURE_CRITICAL"],
    ],
    ["an unreliable one", look({ criticalWarning: 4 }), ["FAILED", "RELIABILITY_DEGRADED"]],
    ["a read-only one", look({ criticalWarning: 8 }), ["FAILED", "READ_ONLY"]],
    ["one without backup power", look({ criticalWarning: 16 }), ["FAILED", "BACKUP_FAILED"]],
    ["one with a later warning", look({ criticalWarning: 64 }), ["DEGRADED", "OTHER_WARNING"]],
    ["a worn one", look({ usedPercent: 90 }), ["DEGRADED", "WEAR_HIGH"]],
    ["a hot one", look({ temperatureCelsius: 75 }), ["DEGRADED", "TEMPERATURE_HIGH"]],
    [
      "one with half its lanes",
      look({}, { link: { ...LINK, lanes: 2 } }),
      ["DEGRADED", "LINK_SLOW"],
    ],
    [
      "one at a lower speed",
      look({}, { link: { ...LINK, gigatransfers: 8 } }),
      ["DEGRADED", "LINK_SLOW"],
    ],
    [
      "two faults",
      look({ criticalWarning: 8, usedPercent: 120 }),
      ["FAILED", "READ_ONLY", "WEAR_HIGH"],
    ],
    // Many errors of long ago are no fault of today.
    ["one with old media errors", look({ mediaErrors: 2n ** 70n }), ["OK"]],
    ["one that gives no page", refused, ["UNKNOWN"]],
  ] as const)("of %s decides at once", (_what, one, expected) => {
    expect(shown(after([one]))).toEqual(expected);
  });
});

describe("a drive that was fine", () => {
  const fine = after(times(3, look()));

  it.each([
    ["says that it is read-only", look({ criticalWarning: 8 }), "READ_ONLY"],
    ["gives no page any more", refused, "PAGE_UNREADABLE"],
    ["is given up by SPDK", { ...refused, controller: "failed" as const }, "CONTROLLER_FAILED"],
    ["is being reset", { ...refused, controller: "resetting" as const }, "CONTROLLER_RESETTING"],
  ] as const)(
    "and %s is ill with the second look, and well after ten good ones",
    (_what, one, reason) => {
      expect(shown(after([one], { from: fine, minute: 3 }))).toEqual(["OK"]);
      const ill = after([one, one], { from: fine, minute: 3 });
      expect(shown(ill)).toEqual([SEVERITY[reason], reason]);
      const nearly = after(times(9, look()), { from: ill, minute: 5 });
      expect(shown(nearly)).toEqual([SEVERITY[reason], reason]);
      expect(shown(after([look()], { from: nearly, minute: 14 }))).toEqual(["OK"]);
    },
  );

  it("is DEGRADED for an hour after a media error", () => {
    const hurt = look({ mediaErrors: 8n });
    const ill = after([hurt, hurt], { from: fine, minute: 3 });
    expect(shown(ill)).toEqual(["DEGRADED", "MEDIA_ERRORS_RISING"]);
    expect(shown(after(times(60, hurt), { from: ill, minute: 5 }))).toEqual(shown(ill));
    expect(shown(after(times(75, hurt), { from: ill, minute: 5 }))).toEqual(["OK"]);
  });

  it("is not DEGRADED because its counters began anew", () => {
    const anew = look({ mediaErrors: 0n, errorLogEntries: 0n });
    expect(shown(after(times(3, anew), { from: fine, minute: 3 }))).toEqual(["OK"]);
  });

  it("stays hot until it is some degrees below the threshold", () => {
    const hot = after(times(2, look({ temperatureCelsius: 76 })), { from: fine, minute: 3 });
    const warm = after(times(20, look({ temperatureCelsius: 71 })), { from: hot, minute: 5 });
    expect(shown(warm)).toEqual(["DEGRADED", "TEMPERATURE_HIGH"]);
    const cool = after(times(10, look({ temperatureCelsius: 69 })), { from: warm, minute: 25 });
    expect(shown(cool)).toEqual(["OK"]);
  });
});

it("a threshold of 0 switches a reason off", () => {
  const off = { ...THRESHOLDS, wear: 0, temperature: 0, mediaErrors: 0, errorLog: 0, link: 0 };
  const bad = { usedPercent: 200, temperatureCelsius: 99 };
  const looks = [1n, 2n, 3n, 4n].map((mediaErrors) =>
    look(
      { ...bad, mediaErrors, errorLogEntries: mediaErrors * 1_000n },
      { link: { ...LINK, lanes: 1 } },
    ),
  );
  expect(shown(after(looks, { thresholds: off }))).toEqual(["OK"]);
});

// Values on both sides of every threshold, and what cannot be told.
const anyPage: fc.Arbitrary<HealthPage> = fc.record({
  criticalWarning: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.nat(127)),
  temperatureCelsius: fc.option(fc.constantFrom(40, 69, 70, 71, 74, 75, 76), { nil: undefined }),
  sparePercent: fc.constantFrom(9, 10, 11, 100),
  spareThresholdPercent: fc.constantFrom(0, 10),
  usedPercent: fc.constantFrom(0, 89, 90, 91, 255),
  mediaErrors: fc.constantFrom(0n, 1n, 2n),
  errorLogEntries: fc.constantFrom(0n, 99n, 100n, 101n),
  powerOnHours: fc.constant(1n),
  unsafeShutdowns: fc.constant(0n),
});

const anyLook: fc.Arbitrary<HealthLook> = fc
  .record({
    page: fc.option(anyPage, { nil: undefined, freq: 5 }),
    controller: fc.constantFrom("enabled", "enabled", "resetting", "failed"),
    link: fc.option(fc.constantFrom(LINK, { ...LINK, lanes: 2 }), { nil: undefined }),
  })
  .map(({ page, controller, link }) => ({
    time: at(0),
    page,
    pageRefused: page === undefined,
    controller: page === undefined ? controller : "enabled",
    link,
  }));

/** Some looks, each some times: drives that waver, and drives that stay as they are. */
const anyLooks = fc
  .array(fc.record({ one: anyLook, count: fc.integer({ min: 1, max: 15 }), waver: fc.boolean() }), {
    minLength: 2,
    maxLength: 12,
  })
  .map((parts) =>
    parts.flatMap(({ one, count, waver }, index) => {
      const other = parts[(index + 1) % parts.length]?.one ?? one;
      return Array.from({ length: count }, (_, at) => (waver && at % 2 === 1 ? other : one));
    }),
  );

const RUNS = { numRuns: 1_000 };
const rank = (health: DiskHealth) => DISK_HEALTHS.indexOf(health);

/** The class after each look, from the first page on. */
function classesOf(looks: readonly HealthLook[], restartAt?: number): readonly DiskHealth[] {
  let memory = NEW;
  const classes: DiskHealth[] = [];
  looks.forEach((one, minute) => {
    memory = judge(memory, { ...one, time: at(minute) }, THRESHOLDS);
    if (memory.sample !== undefined) classes.push(healthOf(memory));
    if (minute === restartAt) {
      memory = rememberedHealth({
        health: healthOf(memory),
        healthReasons: reasonsOf(memory),
        healthSample: memory.sample,
      });
    }
  });
  return classes;
}

/** Turns that came too soon after the one before. */
function flaps(classes: readonly DiskHealth[]): readonly string[] {
  const found: string[] = [];
  let last: { readonly at: number; readonly worse: boolean } | undefined;
  classes.forEach((health, index) => {
    const before = classes[index - 1];
    if (before === undefined || before === health) return;
    const worse = rank(health) > rank(before);
    const least = worse ? THRESHOLDS.raiseLooks : THRESHOLDS.clearLooks;
    if (last !== undefined && last.worse !== worse && index - last.at < least) {
      found.push(`${before} to ${health} at ${index}, after a turn at ${last.at}`);
    }
    last = { at: index, worse };
  });
  return found;
}

describe("whatever a drive shows", () => {
  it("turns its class only after looks in a row that agree", () => {
    fc.assert(
      fc.property(anyLooks, (looks) => {
        expect(flaps(classesOf(looks))).toEqual([]);
      }),
      RUNS,
    );
  });

  it("turns no more often because the agent restarts", () => {
    fc.assert(
      fc.property(anyLooks, fc.nat(100), (looks, restart) => {
        expect(flaps(classesOf(looks, restart))).toEqual([]);
      }),
      RUNS,
    );
  });

  it("has the class of what it shows, once it has shown that for long", () => {
    fc.assert(
      fc.property(anyLooks, anyPage, (looks, page) => {
        // Between the threshold and its margin the past decides.
        fc.pre((page.temperatureCelsius ?? 0) < 70);
        const last = look(page);
        // Longer than new errors count.
        const settled = after([...looks, ...times(80, last)]);
        const fresh = after([last]);
        // What does not tell leaves a reason as it is.
        const told = (memory: HealthMemory) =>
          reasonsOf(memory).filter(
            (reason) => reason !== "TEMPERATURE_HIGH" || page.temperatureCelsius !== undefined,
          );
        expect(told(settled)).toEqual(told(fresh));
      }),
      RUNS,
    );
  });

  it("a look that alternates with its opposite changes nothing", () => {
    fc.assert(
      fc.property(anyPage, (page) => {
        const wavering = Array.from({ length: 60 }, (_, at) =>
          at % 2 === 0
            ? look({ mediaErrors: 0n, errorLogEntries: 0n })
            : look({ ...page, mediaErrors: 0n, errorLogEntries: 0n }),
        );
        expect(new Set(classesOf(wavering))).toEqual(new Set(["OK"]));
      }),
      RUNS,
    );
  });
});

it("every reason has a severity and a place in the list", () => {
  expect(HEALTH_REASONS.length).toBe(Object.keys(SEVERITY).length);
});
