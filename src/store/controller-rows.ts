// Parses rows of the controller table into the model's ControllerRow.
import { z } from "zod";
import { CONTROLLER_STATES, type ControllerRow } from "../model/controller.ts";
import { failuresColumn, jsonTime, optional, pendingOpColumn, rowParser } from "./columns.ts";

const setback = z.object({
  attempt: z.number(),
  tries: z.number(),
  reason: z.string(),
  run: z.string(),
  nextTryTime: jsonTime,
});

const controllerRow: z.ZodType<ControllerRow> = z.object({
  id: z.string(),
  nodeId: z.string(),
  serial: optional(z.string()),
  model: optional(z.string()),
  inspectRequestedTime: optional(z.date()),
  inspectSerial: optional(z.string()),
  generation: z.bigint(),
  actor: optional(z.string()),
  traceparent: optional(z.string()),
  observedGeneration: z.bigint(),
  state: z.enum(CONTROLLER_STATES),
  stateReason: z.string(),
  driver: optional(z.string()),
  iommuGroup: optional(z.string()),
  originalDriver: optional(z.string()),
  members: z.array(z.string()),
  controllerName: optional(z.string()),
  setback: optional(setback),
  pendingOp: optional(pendingOpColumn),
  failures: failuresColumn,
  lastError: optional(z.string()),
  attempt: z.number(),
  nextTryTime: optional(z.date()),
  lastSeenTime: z.date(),
  revision: z.bigint(),
  createTime: z.date(),
  updateTime: z.date(),
});

/** Parses rows of `select * from controller`. */
export const parseControllerRows = rowParser("controller", controllerRow);
