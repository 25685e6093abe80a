// Validation of requests about snapshots, as requests.ts.
import type { ListSnapshotsRequest, SnapshotRequest } from "../gen/storagenode/v1/storage_node.ts";
import { Fields } from "./fields.ts";
import type { PageRequest } from "./page.ts";

export function snapshotId(id: string): string {
  const fields = new Fields();
  return fields.doneWith(fields.uuid("snapshot_id", id));
}

export function snapshot(message: SnapshotRequest): {
  readonly id: string;
  readonly sourceLvolId: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly waitMs: number;
} {
  const fields = new Fields();
  const spec = fields.present("spec", message.spec);
  return fields.doneWith({
    id: fields.uuid("id", message.id),
    sourceLvolId: spec === undefined ? "" : fields.uuid("spec.source_lvol_id", spec.sourceLvolId),
    labels: fields.labels("spec.labels", spec?.labels ?? {}),
    waitMs: fields.waitMs("wait_timeout", message.waitTimeout),
  });
}

export function listSnapshots(message: ListSnapshotsRequest): PageRequest & {
  readonly sourceLvolId: string | undefined;
  readonly showDeleted: boolean;
} {
  const fields = new Fields();
  return fields.doneWith({
    ...fields.paging(message),
    sourceLvolId: fields.optionalUuid("source_lvol_id", message.sourceLvolId),
    showDeleted: message.showDeleted,
  });
}
