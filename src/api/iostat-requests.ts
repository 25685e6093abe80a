// Validation of the request of StreamIostat, as requests.ts.
import type { StreamIostatRequest } from "../gen/storagenode/v1/storage_node.ts";
import { IOSTAT_DEFAULT_MS, IOSTAT_MAX_MS, IOSTAT_MIN_MS } from "../limits.ts";
import type { IostatFilter } from "../model/iostat.ts";
import { Fields } from "./fields.ts";

/** Equal filters are equal in every part, whatever the order and repetition of ids. */
export function streamIostat(message: StreamIostatRequest): {
  readonly filter: IostatFilter;
  readonly intervalMs: number;
} {
  const fields = new Fields();
  const ids = (field: string, values: readonly string[]) => {
    for (const [index, value] of values.entries()) fields.uuid(`${field}[${index}]`, value);
    return values.length === 0 ? ("all" as const) : [...new Set(values)].toSorted();
  };
  const { includeDisks } = message;
  const filter = {
    lvolIds: ids("lvol_ids", message.lvolIds),
    diskIds: ids("disk_ids", message.diskIds),
    includeDisks,
  };
  const interval = { min: IOSTAT_MIN_MS, max: IOSTAT_MAX_MS, unset: IOSTAT_DEFAULT_MS };
  const intervalMs = fields.durationMs("interval", message.interval, interval);
  return fields.doneWith({ filter, intervalMs });
}
