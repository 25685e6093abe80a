// Validation of requests that change a volume, as requests.ts: ResizeLvol, UpdateLvol, and limits wherever
// they are asked for.
import type { ResizeLvolRequest, UpdateLvolRequest } from "../gen/storagenode/v1/storage_node.ts";
import { NO_LIMITS, type QosLimits } from "../model/lvol.ts";
import { Fields } from "./fields.ts";

/** Undefined if every limit is 0, which means unlimited. */
export function limits(
  fields: Fields,
  field: string,
  qos: QosLimits | undefined,
): QosLimits | undefined {
  if (qos === undefined) return undefined;
  const { rwIops, rwMibPerSecond, readMibPerSecond, writeMibPerSecond } = qos;
  fields.limit(`${field}.rw_iops`, rwIops);
  fields.limit(`${field}.rw_mib_per_second`, rwMibPerSecond);
  fields.limit(`${field}.read_mib_per_second`, readMibPerSecond);
  fields.limit(`${field}.write_mib_per_second`, writeMibPerSecond);
  const none = rwIops + rwMibPerSecond + readMibPerSecond + writeMibPerSecond === 0n;
  return none ? undefined : { rwIops, rwMibPerSecond, readMibPerSecond, writeMibPerSecond };
}

export type ResizeRequest = {
  readonly id: string;
  readonly sizeBytes: bigint;
  readonly waitMs: number;
};

export function resize(message: ResizeLvolRequest): ResizeRequest {
  const fields = new Fields();
  return fields.doneWith({
    id: fields.uuid("lvol_id", message.lvolId),
    sizeBytes: fields.size("size_bytes", message.sizeBytes),
    waitMs: fields.waitMs("wait_timeout", message.waitTimeout),
  });
}

export type UpdateRequest = {
  readonly id: string;
  /** Undefined: as it is; all 0: no limits. */
  readonly qos: QosLimits | undefined;
  readonly labels: Readonly<Record<string, string>> | undefined;
  readonly etag: string | undefined;
  readonly waitMs: number;
};

export function update(message: UpdateLvolRequest): UpdateRequest {
  const fields = new Fields();
  const { qos, labels, setLabels } = message;
  if (!setLabels && Object.keys(labels).length > 0) {
    fields.violation("set_labels", "must be set for labels to replace those of the volume");
  }
  return fields.doneWith({
    id: fields.uuid("lvol_id", message.lvolId),
    qos: qos && (limits(fields, "qos", qos) ?? NO_LIMITS),
    labels: setLabels ? fields.labels("labels", labels) : undefined,
    etag: fields.text("etag", message.etag) || undefined,
    waitMs: fields.waitMs("wait_timeout", message.waitTimeout),
  });
}
