// The health pages of disks in Prometheus' text format: disks come and go, which the instruments of the
// SDK do not forget, and counters of a page are larger than a double is exact.

export type HealthSeries = {
  readonly diskId: string;
  readonly ageSeconds: number;
  readonly temperatureCelsius: number | undefined;
  readonly sparePercent: number;
  readonly usedPercent: number;
  readonly mediaErrors: bigint;
  readonly errorLogEntries: bigint;
};

type Measure = {
  readonly name: string;
  readonly help: string;
  readonly type: "gauge" | "counter";
  /** Undefined: the drive does not tell. */
  readonly of: (series: HealthSeries) => number | bigint | undefined;
};

const MEASURES: readonly Measure[] = [
  {
    name: "storagenode_disk_temperature_celsius",
    help: "Temperature of disks",
    type: "gauge",
    of: ({ temperatureCelsius }) => temperatureCelsius,
  },
  {
    name: "storagenode_disk_spare_ratio",
    help: "Spare blocks that disks have left",
    type: "gauge",
    of: ({ sparePercent }) => sparePercent / 100,
  },
  {
    name: "storagenode_disk_wear_ratio",
    help: "Part of the writes that disks are rated for which is used",
    type: "gauge",
    of: ({ usedPercent }) => usedPercent / 100,
  },
  {
    name: "storagenode_disk_media_errors_total",
    help: "Media errors of disks since they were made",
    type: "counter",
    of: ({ mediaErrors }) => mediaErrors,
  },
  {
    name: "storagenode_disk_error_log_entries_total",
    help: "Entries of the error logs of disks since they were made",
    type: "counter",
    of: ({ errorLogEntries }) => errorLogEntries,
  },
  {
    name: "storagenode_disk_health_age_seconds",
    help: "Time since the health page of disks was read",
    type: "gauge",
    of: ({ ageSeconds }) => ageSeconds,
  },
];

/** Empty without series. */
export function healthTextOf(series: readonly HealthSeries[]): string {
  const lines = MEASURES.flatMap(({ name, help, type, of }) => {
    const samples = series.flatMap((one) => {
      const value = of(one);
      return value === undefined ? [] : [`${name}{disk="${one.diskId}"} ${value}`];
    });
    if (samples.length === 0) return [];
    return [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...samples];
  });
  return lines.length === 0 ? "" : `${lines.join("\n")}\n`;
}
