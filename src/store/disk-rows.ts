// Parses rows of the disk table into the model's DiskRow.
import { z } from "zod";
import { DISK_STATES, DISK_WISHES, type DiskRow } from "../model/disk.ts";
import { DISK_HEALTHS, isReason, type HealthSample } from "../model/disk-health.ts";
import { RECORDED_SPACE_LEVELS } from "../model/space.ts";
import { EVIDENCE_KINDS } from "../model/evidence.ts";
import {
  bigText,
  failuresColumn,
  jsonTime,
  optional,
  pendingOpColumn,
  rowParser,
} from "./columns.ts";

/** An older agent does not know what a newer one has recorded, and looks itself. */
const healthReasons = z.array(z.string()).transform((reasons) => reasons.filter(isReason));

const healthSample: z.ZodType<HealthSample> = z.object({
  time: jsonTime,
  page: z.object({
    criticalWarning: z.number(),
    temperatureCelsius: optional(z.number()),
    sparePercent: z.number(),
    spareThresholdPercent: z.number(),
    usedPercent: z.number(),
    mediaErrors: bigText,
    errorLogEntries: bigText,
    powerOnHours: bigText,
    unsafeShutdowns: bigText,
  }),
  link: optional(
    z.object({
      gigatransfers: z.number(),
      lanes: z.number(),
      maxGigatransfers: z.number(),
      maxLanes: z.number(),
    }),
  ),
});

const evidence = z.array(
  z.object({ kind: z.enum(EVIDENCE_KINDS), subject: z.string(), detail: z.string() }),
);

const wipe = z.object({
  requestedTime: jsonTime,
  evidence,
  reason: z.string(),
  begun: optional(z.object({ time: jsonTime, functions: z.array(z.string()) })),
});

const diskRow: z.ZodType<DiskRow> = z.object({
  id: z.string(),
  nodeId: z.string(),
  serial: z.string(),
  model: z.string(),
  nsid: z.number(),
  nguid: optional(z.string()),
  eui64: optional(z.string()),
  admitted: z.boolean(),
  admittedSerial: optional(z.string()),
  admittedEvidence: optional(z.string()),
  admissionEnded: optional(z.string()),
  cordoned: z.boolean(),
  wanted: z.enum(DISK_WISHES),
  adoptedStore: optional(z.string()),
  zeroRequestedTime: optional(z.date()),
  wipe: optional(wipe),
  wipeEnded: optional(z.string()),
  discardZeroes: z.boolean(),
  actor: optional(z.string()),
  generation: z.bigint(),
  traceparent: optional(z.string()),
  observedGeneration: z.bigint(),
  state: z.enum(DISK_STATES),
  stateReason: z.string(),
  transport: z.enum(["PCIe", "TCP", "RDMA"]),
  address: z.string(),
  kernelName: optional(z.string()),
  driver: optional(z.string()),
  controllerName: optional(z.string()),
  lvsName: optional(z.string()),
  lvsUuid: optional(z.string()),
  freeSpace: z.enum(["ZEROED", "UNKNOWN"]),
  pendingOp: optional(pendingOpColumn),
  zeroing: optional(z.object({ zeroedBytes: bigText, totalBytes: bigText, startTime: jsonTime })),
  zeroingRate: optional(z.bigint()),
  copyingRun: optional(z.string()),
  clusterBytes: optional(z.bigint()),
  totalClusters: optional(z.bigint()),
  freeClusters: optional(z.bigint()),
  spaceLevel: z.enum(RECORDED_SPACE_LEVELS),
  health: z.enum(DISK_HEALTHS),
  healthReasons,
  healthTime: optional(z.date()),
  healthSample: optional(healthSample),
  sizeBytes: z.bigint(),
  blockSize: z.number(),
  evidence,
  evidenceFingerprint: z.string(),
  failures: failuresColumn,
  lastError: optional(z.string()),
  attempt: z.number(),
  nextTryTime: optional(z.date()),
  lastSeenTime: z.date(),
  promisedBytes: z.bigint(),
  lvolCount: z.number(),
  snapshotCount: z.number(),
  revision: z.bigint(),
  createTime: z.date(),
  updateTime: z.date(),
});

/** Parses rows of `select * from disk`. */
export const parseDiskRows = rowParser("disk", diskRow);
