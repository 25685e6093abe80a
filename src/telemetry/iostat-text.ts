// I/O counters in Prometheus' text format. Not by instruments of the SDK: these keep every series that
// was ever observed, also of volumes that are gone, and count in doubles.

export type IoSeries = {
  /** Undefined: of the disk itself. */
  readonly lvolId: string | undefined;
  readonly diskId: string;
  readonly read: IoTotals;
  readonly write: IoTotals;
};

type IoTotals = {
  readonly bytes: bigint;
  readonly operations: bigint;
  readonly latencyNs: bigint;
};

const MEASURES = [
  ["bytes", "Bytes read and written", ({ bytes }: IoTotals) => String(bytes)],
  ["operations", "Reads and writes", ({ operations }: IoTotals) => String(operations)],
  ["seconds", "Time of all reads and writes", ({ latencyNs }: IoTotals) => seconds(latencyNs)],
] as const;

/** Empty without series. */
export function iostatText(series: readonly IoSeries[]): string {
  const ofDisks = series.filter(({ lvolId }) => lvolId === undefined);
  const ofVolumes = series.filter(({ lvolId }) => lvolId !== undefined);
  return textOf("disk", ofDisks) + textOf("lvol", ofVolumes);
}

function textOf(kind: "disk" | "lvol", series: readonly IoSeries[]): string {
  if (series.length === 0) return "";
  const lines = MEASURES.flatMap(([measure, help, valueOf]) => {
    const name = `storagenode_${kind}_io_${measure}_total`;
    const samples = series.flatMap((one) =>
      (["read", "write"] as const).map(
        (operation) =>
          `${name}{${labels(one)},operation="${operation}"} ${valueOf(one[operation])}`,
      ),
    );
    const what = kind === "disk" ? "disks" : "volumes";
    return [`# HELP ${name} ${help} of ${what}`, `# TYPE ${name} counter`, ...samples];
  });
  return `${lines.join("\n")}\n`;
}

/** Ids are UUIDs: nothing to escape. */
function labels({ lvolId, diskId }: IoSeries): string {
  return lvolId === undefined ? `disk="${diskId}"` : `lvol="${lvolId}",disk="${diskId}"`;
}

function seconds(ns: bigint): string {
  const digits = String(ns).padStart(10, "0");
  return `${digits.slice(0, -9)}.${digits.slice(-9)}`;
}
