// Parses rows of the snapshot table into the model's SnapshotRow.
import { z } from "zod";
import type { SnapshotRow } from "../model/snapshot.ts";
import { failuresColumn, optional, pendingOpColumn, rowParser } from "./columns.ts";

const snapshotRow: z.ZodType<SnapshotRow> = z.object({
  id: z.string(),
  nodeId: z.string(),
  diskId: z.string(),
  familyRoot: z.string(),
  sourceLvolId: optional(z.string()),
  adopted: z.boolean(),
  promisedBytes: z.bigint(),
  labels: z.record(z.string(), z.string()),
  generation: z.bigint(),
  deleteRequestedTime: optional(z.date()),
  deleteDeferred: z.boolean(),
  actor: optional(z.string()),
  traceparent: optional(z.string()),
  observedGeneration: z.bigint(),
  lvolUuid: optional(z.string()),
  lvsUuid: optional(z.string()),
  observedSizeBytes: optional(z.bigint()),
  parentId: optional(z.string()),
  pendingOp: optional(pendingOpColumn),
  failures: failuresColumn,
  lastError: optional(z.string()),
  failed: z.boolean(),
  attempt: z.number(),
  nextTryTime: optional(z.date()),
  revision: z.bigint(),
  createTime: z.date(),
  updateTime: z.date(),
  deleteTime: optional(z.date()),
});

/** Parses rows of `select * from snapshot`. */
export const parseSnapshotRows = rowParser("snapshot", snapshotRow);
