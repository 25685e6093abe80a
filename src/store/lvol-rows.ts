// The lvol table as the model sees it.
import { z } from "zod";
import type { LvolRow } from "../model/lvol.ts";
import { bigText, optional, pendingOpColumn, rowParser } from "./columns.ts";

const qos = z.object({
  rwIops: bigText,
  rwMibPerSecond: bigText,
  readMibPerSecond: bigText,
  writeMibPerSecond: bigText,
});

const request = z.object({
  sizeBytes: bigText,
  thin: z.boolean(),
  diskId: optional(z.string()),
  sourceSnapshotId: optional(z.string()),
  hosts: z.array(z.string()),
  allowAnyHost: z.boolean(),
  qos: optional(qos),
});

const lvolRow: z.ZodType<LvolRow> = z.object({
  id: z.string(),
  nodeId: z.string(),
  diskId: z.string(),
  request,
  sizeBytes: z.bigint(),
  promisedBytes: z.bigint(),
  thin: z.boolean(),
  hosts: z.array(z.string()),
  allowAnyHost: z.boolean(),
  qos: optional(qos),
  labels: z.record(z.string(), z.string()),
  nqn: z.string(),
  generation: z.bigint(),
  deleteRequestedTime: optional(z.date()),
  deleteForced: z.boolean(),
  traceparent: optional(z.string()),
  observedGeneration: z.bigint(),
  lvolUuid: optional(z.string()),
  lvsUuid: optional(z.string()),
  observedSizeBytes: optional(z.bigint()),
  exported: z.boolean(),
  pendingOp: optional(pendingOpColumn),
  unconfirmed: z.boolean(),
  lastError: optional(z.string()),
  failed: z.boolean(),
  attempt: z.number(),
  nextTryTime: optional(z.date()),
  revision: z.bigint(),
  createTime: z.date(),
  updateTime: z.date(),
  deleteTime: optional(z.date()),
});

/** Parses rows of `select * from lvol`. */
export const parseLvolRows = rowParser(lvolRow);
