// The setting of what is too much for a disk: `wear:90,temperature:75`, each name at most once.
import {
  HEALTH_CLEAR_LOOKS,
  HEALTH_RAISE_LOOKS,
  HEALTH_TEMPERATURE_MARGIN,
  HEALTH_WINDOW_MS,
} from "./limits.ts";
import type { HealthThresholds } from "./model/disk-health.ts";

const DEFAULTS = { wear: 90, temperature: 75, media_errors: 1, error_log: 0, link: 100 };

type Name = keyof typeof DEFAULTS;

const MAXIMA: Readonly<Record<Name, number>> = {
  wear: 255,
  temperature: 200,
  media_errors: 1_000_000,
  error_log: 1_000_000,
  link: 100,
};

function isName(text: string): text is Name {
  return text in DEFAULTS;
}

/** What is not named keeps its default. Adds what is wrong to the faults. */
export function healthThresholds(list: string, faults: string[]): HealthThresholds {
  const fault = (what: string) => faults.push(`STORAGE_NODE_DISK_HEALTH: ${what}`);
  const values = { ...DEFAULTS };
  const named = new Set<Name>();
  for (const part of list.split(",").map((item) => item.trim())) {
    if (part === "") continue;
    const [name = "", digits = "", ...rest] = part.split(":");
    if (!isName(name) || rest.length > 0) {
      fault(`"${part}" must be NAME:NUMBER with a name of ${Object.keys(DEFAULTS).join(", ")}`);
    } else if (!/^\d{1,7}$/.test(digits) || Number(digits) > MAXIMA[name]) {
      fault(`${name} must be a whole number up to ${MAXIMA[name]}; 0 switches it off`);
    } else if (named.has(name)) {
      fault(`names ${name} twice`);
    } else {
      named.add(name);
      values[name] = Number(digits);
    }
  }
  const { media_errors: mediaErrors, error_log: errorLog, wear, temperature, link } = values;
  return {
    wear,
    temperature,
    mediaErrors,
    errorLog,
    link,
    temperatureMargin: HEALTH_TEMPERATURE_MARGIN,
    windowMs: HEALTH_WINDOW_MS,
    raiseLooks: HEALTH_RAISE_LOOKS,
    clearLooks: HEALTH_CLEAR_LOOKS,
  };
}
