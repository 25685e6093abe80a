// The orders of the control socket (docs/simulator.md#control).
import { z } from "zod";
import { drive } from "./drive.ts";

const MAX_READ_BYTES = 1_048_576;

const which = {
  method: z.string().optional(),
  with: z.string().optional(),
  nth: z.int().positive().default(1),
};

const wait = {
  polls: z.int().nonnegative().default(0),
  ms: z.int().nonnegative().default(0),
};

const address = {
  traddr: z.string().default("127.0.0.1"),
  trsvcid: z.string(),
};

const ioFields = {
  kind: z.enum(["write", "read", "discard", "write_zeroes"]),
  offset: z.int().nonnegative(),
  bytes: z.int().positive().optional(),
  hex: z.hex().default(""),
  times: z.int().positive().default(1),
};

/** A connection by its cntlid, or a host of this process by its name. */
const hostFields = {
  cntlid: z.int().optional(),
  nqn: z.string().optional(),
  host: z.string().optional(),
};

export const order = z.discriminatedUnion("op", [
  z.object({ op: z.literal("count") }),
  z.object({ op: z.literal("reset_counts") }),
  z.object({ op: z.literal("stop"), when: z.enum(["before", "midway", "after"]), ...which }),
  z.object({ op: z.literal("continue") }),
  z.object({ op: z.literal("clear_rules") }),
  z.object({ op: z.literal("drop"), ...which, always: z.boolean().default(false) }),
  z.object({
    op: z.enum(["delay", "slow"]),
    ...which,
    ...wait,
    always: z.boolean().default(false),
  }),
  z.object({
    op: z.literal("fail"),
    ...which,
    code: z.int(),
    message: z.string(),
    half: z.boolean().default(false),
    always: z.boolean().default(false),
  }),
  z.object({
    op: z.literal("connect_host"),
    nqn: z.string(),
    host: z.string(),
    traddr: z.string().default("127.0.0.1"),
    trsvcid: z.string().optional(),
  }),
  z.object({
    op: z.literal("disconnect_host"),
    nqn: z.string(),
    host: z.string(),
    cntlid: z.int().optional(),
  }),
  z.object({
    op: z.literal("start_host"),
    nqn: z.string(),
    host: z.string(),
    ...address,
    reconnect_delay_ms: z.int().positive().default(1_000),
    ctrl_loss_tmo_ms: z.int().positive().default(600_000),
  }),
  z.object({ op: z.literal("stop_host"), nqn: z.string(), host: z.string() }),
  z.object({ op: z.literal("reopen_host"), nqn: z.string(), host: z.string() }),
  z.object({ op: z.literal("host_state"), ...hostFields }),
  z.object({ op: z.literal("host_io"), ...hostFields, ...ioFields }),
  z.object({ op: z.literal("discovery_log"), host: z.string(), ...address }),
  z.object({
    op: z.literal("late_disk"),
    serial: z.string().optional(),
    attach_ms: z.int().nonnegative().default(0),
    load_ms: z.int().nonnegative().default(0),
  }),
  z.object({
    op: z.literal("health"),
    serial: z.string().optional(),
    ...z.object(drive).partial().shape,
  }),
  z.object({
    op: z.literal("abort_on_add_ns"),
    lvol: z.string(),
    set: z.boolean().default(true),
  }),
  z.object({ op: z.literal("save_config"), file: z.string() }),
  z.object({ op: z.literal("warnings") }),
  z.object({
    op: z.literal("write"),
    lvol: z.string(),
    offset: z.int().nonnegative(),
    hex: z.hex(),
    times: z.int().positive().default(1),
  }),
  z.object({
    op: z.literal("read"),
    lvol: z.string(),
    offset: z.int().nonnegative(),
    bytes: z.int().positive().max(MAX_READ_BYTES),
  }),
  z.object({ op: z.literal("kill") }),
]);

export type Order = z.output<typeof order>;
export type OrderOf<Op extends Order["op"]> = Extract<Order, { readonly op: Op }>;
