// Parses rows of the lvol table into the model's LvolRow.
import { z } from "zod";
import type { LvolRow } from "../model/lvol.ts";
import { bigText, failuresColumn, optional, pendingOpColumn, rowParser } from "./columns.ts";

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
  familyRoot: z.string(),
  request,
  sizeBytes: z.bigint(),
  promisedBytes: z.bigint(),
  thin: z.boolean(),
  hosts: z.array(z.string()),
  allowAnyHost: z.boolean(),
  qos: optional(qos),
  labels: z.record(z.string(), z.string()),
  nqn: z.string(),
  serialNumber: z.string(),
  modelNumber: z.string(),
  generation: z.bigint(),
  deleteRequestedTime: optional(z.date()),
  deleteForced: z.boolean(),
  deleteReason: optional(z.string()),
  actor: optional(z.string()),
  traceparent: optional(z.string()),
  observedGeneration: z.bigint(),
  lvolUuid: optional(z.string()),
  lvsUuid: optional(z.string()),
  observedSizeBytes: optional(z.bigint()),
  parentId: optional(z.string()),
  cloning: z.boolean(),
  exported: z.boolean(),
  pendingOp: optional(pendingOpColumn),
  unconfirmed: z.boolean(),
  unconfirmedHosts: z.array(z.string()),
  maybeMade: z.boolean(),
  connectedHosts: optional(z.array(z.string())),
  connectedIncarnation: optional(z.string()),
  unexportedTime: optional(z.date()),
  nameTaken: z.boolean(),
  adopted: z.boolean(),
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

/** Parses rows of `select * from lvol`. */
export const parseLvolRows = rowParser("lvol", lvolRow);
