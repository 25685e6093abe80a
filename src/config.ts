// Reads the environment into a frozen Config. It reports all faults at once and never replaces an
// invalid value by a default.
import { isIPv4, isIPv6 } from "node:net";
import { hostname } from "node:os";
import { z } from "zod";
import { addressFamily } from "./model/address.ts";
import { SPACE_MARGIN_PERCENT, SPACE_RECORD_PERCENT } from "./limits.ts";
import type { ListenAddress } from "./model/lvol.ts";
import type { SpaceThresholds } from "./model/space.ts";
import type { HealthThresholds } from "./model/disk-health.ts";
import {
  telemetryConfig,
  telemetryEnvironment,
  type TelemetryConfig,
} from "./telemetry/telemetry-config.ts";
import { accessSettings, type AccessSettings } from "./config-access.ts";
import { healthThresholds } from "./config-health.ts";
import {
  diskPatterns,
  readFabricDisks,
  type DiskPattern,
  type FabricDisk,
} from "./config-disks.ts";

export type Config = AccessSettings & {
  readonly nodeId: string;
  readonly databaseUrl: string;
  readonly spdkSocket: string;
  readonly listen: string;
  /** Metrics and probes; undefined: not served. */
  readonly httpListen: string | undefined;
  /** Unix socket for commands on the node; undefined: none. */
  readonly socket: string | undefined;
  readonly root: string;
  readonly stateDir: string;
  readonly fleet: string;
  readonly nqnPrefix: string;
  readonly listenAddresses: readonly ListenAddress[];
  readonly maxExports: number;
  readonly diskPolicy: "manual" | "auto";
  /** `auto` admits a disk after that long without evidence against it. */
  readonly diskSettleMs: number;
  readonly diskAllow: readonly DiskPattern[];
  readonly fabricDisks: readonly FabricDisk[];
  readonly overcommit: number;
  readonly isolation: "strict" | "trusted";
  /** Who has free space zeroed that may hold old bytes: the agent by itself, or an operator. */
  readonly zeroing: "auto" | "manual";
  /** Of the time of a disk, at most, that zeroing takes which nobody has asked for. */
  readonly zeroingSharePercent: number;
  /** How long exports are held back for zeroing; 0: not at all, Infinity: as long as it takes. */
  readonly zeroingHoldMs: number;
  readonly spaceThresholds: SpaceThresholds;
  readonly healthThresholds: HealthThresholds;
  /** How long hosts may take to come back after a restart of the target. */
  readonly reconnectGraceMs: number;
  /** A target that answers nothing for that long counts as not there. */
  readonly targetSilenceMs: number;
  /** Whose I/O counters stand in the metrics. */
  readonly metricsIostat: "off" | "disks" | "volumes";
  /** How long events can be read. */
  readonly eventRetentionMs: number;
  readonly logLevel: "fatal" | "error" | "warn" | "info" | "debug" | "trace";
  readonly telemetry: TelemetryConfig;
};

const DAY_MS = 86_400_000;

/** Exit code of a configuration fault (EX_CONFIG of sysexits.h). */
export const EXIT_CONFIG = 78;

export class ConfigError extends Error {
  readonly faults: readonly string[];

  constructor(faults: readonly string[]) {
    super(`${countOf(faults)}:\n${faults.map((fault) => `  ${fault}`).join("\n")}`);
    this.name = "ConfigError";
    this.faults = faults;
  }
}

function countOf(faults: readonly string[]): string {
  return `${faults.length} configuration ${faults.length === 1 ? "fault" : "faults"}`;
}

const text = (fallback: string) => z.string().min(1).default(fallback);

const socketPath = (path: z.ZodType<string, string | undefined>) =>
  path.refine(
    (path) => Buffer.byteLength(path) <= 107,
    "must have 107 bytes at most, as paths of Unix sockets do",
  );

const port = z
  .string()
  .regex(/^\d{1,5}$/, { error: "must be a port number", abort: true })
  .refine((digits) => Number(digits) <= 65_535, "must be at most 65535");

const nqnPrefix = z
  .string()
  .max(120, "must have 120 characters at most, to leave room for a volume id")
  .regex(
    /^nqn\.\d{4}-(0[1-9]|1[0-2])\.[a-z0-9-]+(\.[a-z0-9-]+)*(:[A-Za-z0-9._-]+)*$/,
    "must look like nqn.2026-11.io.storage-node",
  );

const environment = z.object({
  STORAGE_NODE_ID: z
    .string()
    .default(() => hostname())
    .pipe(
      z.string().regex(/^[A-Za-z0-9.-]{1,253}$/, "must be 1 to 253 letters, digits, '.' and '-'"),
    ),
  DATABASE_URL: z
    .string({ error: "is not set; for example postgresql://user@host/storage_node" })
    .regex(/^(postgres(ql)?:\/\/|\/|socket:)/, "must be a postgresql:// URL"),
  STORAGE_NODE_SPDK_SOCKET: socketPath(text("/var/tmp/spdk.sock")),
  STORAGE_NODE_LISTEN: text("127.0.0.1:50051"),
  STORAGE_NODE_HTTP_LISTEN: text("127.0.0.1:9464"),
  STORAGE_NODE_INSECURE: z.enum(["0", "1"], { error: "must be 0 or 1" }).default("0"),
  STORAGE_NODE_TLS_CERT: z.string().optional(),
  STORAGE_NODE_TLS_KEY: z.string().optional(),
  STORAGE_NODE_TLS_CA: z.string().optional(),
  STORAGE_NODE_CLIENTS: z.string().optional(),
  STORAGE_NODE_SOCKET: socketPath(z.string()).optional(),
  STORAGE_NODE_ROOT: text("/"),
  STORAGE_NODE_STATE_DIR: text("/var/lib/storage-node"),
  STORAGE_NODE_FLEET: text("default"),
  STORAGE_NODE_NQN_PREFIX: nqnPrefix.default("nqn.2026-11.io.storage-node"),
  STORAGE_NODE_EXPORT_TRTYPE: z
    .enum(["TCP", "RDMA"], { error: "must be TCP or RDMA" })
    .default("TCP"),
  STORAGE_NODE_EXPORT_ADDR: text("127.0.0.1"),
  STORAGE_NODE_EXPORT_PORT: port.default("4420"),
  STORAGE_NODE_MAX_EXPORTS: z
    .string()
    .regex(/^[1-9]\d{0,5}$/, "must be a number of exports, at least 1")
    .default("1022"),
  STORAGE_NODE_DISK_POLICY: z
    .enum(["manual", "auto"], { error: "must be manual or auto" })
    .default("manual"),
  STORAGE_NODE_DISK_ALLOW: z.string().default(""),
  STORAGE_NODE_DISK_SETTLE: z
    .string()
    .regex(/^\d{1,4}$/, "must be a number of seconds, at most 9999")
    .default("30"),
  STORAGE_NODE_FABRIC_DISKS: z.string().default(""),
  STORAGE_NODE_OVERCOMMIT: z
    .string()
    .regex(/^\d{1,3}(\.\d{1,4})?$/, { error: "must be a factor such as 1.0", abort: true })
    .refine((factor) => Number(factor) > 0, "must be above 0")
    .default("1.0"),
  STORAGE_NODE_ISOLATION: z
    .enum(["strict", "trusted"], { error: "must be strict or trusted" })
    .default("strict"),
  STORAGE_NODE_ZEROING: z
    .enum(["auto", "manual"], { error: "must be auto or manual" })
    .default("auto"),
  STORAGE_NODE_ZEROING_SHARE: z
    .string()
    .regex(/^([1-9]\d?|100)$/, { error: "must be a percentage, 1 to 100" })
    .default("50"),
  STORAGE_NODE_ZEROING_HOLD: z
    .string()
    .regex(/^(always|never|\d{1,4}(\.\d{1,3})?)$/, {
      error: "must be a number of seconds, such as 30, or always or never",
    })
    .default("30"),
  STORAGE_NODE_SPACE_LOW: z
    .string()
    .regex(/^\d{1,2},\d{1,2}$/, { error: "must be two percentages such as 20,10", abort: true })
    .refine((pair) => {
      const [low = 0, critical = 0] = percentages(pair);
      return low >= critical;
    }, "must have the higher percentage first, such as 20,10")
    .default("20,10"),
  STORAGE_NODE_DISK_HEALTH: z.string().default(""),
  STORAGE_NODE_RECONNECT_GRACE: z
    .string()
    .regex(/^\d{1,4}(\.\d{1,3})?$/, { error: "must be a number of seconds, such as 30" })
    .default("30"),
  STORAGE_NODE_TARGET_SILENCE: z
    .string()
    .regex(/^\d{1,3}(\.\d{1,3})?$/, {
      error: "must be a number of seconds, such as 10",
      abort: true,
    })
    .refine((seconds) => Number(seconds) > 0, "must be above 0")
    .default("10"),
  STORAGE_NODE_METRICS_IOSTAT: z
    .enum(["off", "disks", "volumes"], { error: "must be off, disks or volumes" })
    .default("disks"),
  STORAGE_NODE_EVENT_RETENTION: z
    .string()
    .regex(/^\d{1,4}(\.\d{1,3})?$/, { error: "must be a number of days, such as 7", abort: true })
    .refine((days) => Number(days) > 0, "must be above 0")
    .default("7"),
  LOG_LEVEL: z
    .enum(["fatal", "error", "warn", "info", "debug", "trace"], {
      error: "must be fatal, error, warn, info, debug or trace",
    })
    .default("info"),
  ...telemetryEnvironment,
});

/** Reads the environment. Throws ConfigError with every fault, each as `NAME: what is wrong`. */
export function readConfig(env: Readonly<Record<string, string | undefined>>): Config {
  const faults: string[] = [];
  const present = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== ""));
  const parsed = environment.safeParse(present);
  for (const issue of parsed.error?.issues ?? []) {
    faults.push(`${issue.path.join(".")}: ${issue.message}`);
  }
  // These parts are read from the raw values, so that all faults are reported together.
  const { access, unprotected } = accessSettings(present, faults);
  const addresses = exportAddresses(present["STORAGE_NODE_EXPORT_ADDR"] ?? "127.0.0.1", faults);
  const diskAllow = diskPatterns(present["STORAGE_NODE_DISK_ALLOW"] ?? "", faults);
  const health = healthThresholds(present["STORAGE_NODE_DISK_HEALTH"] ?? "", faults);
  const fabricDisks = readFabricDisks(present["STORAGE_NODE_FABRIC_DISKS"] ?? "", faults);
  if (parsed.data === undefined || faults.length > 0) throw new ConfigError(faults);
  const values = parsed.data;
  return Object.freeze({
    nodeId: values.STORAGE_NODE_ID,
    databaseUrl: values.DATABASE_URL,
    spdkSocket: values.STORAGE_NODE_SPDK_SOCKET,
    listen: values.STORAGE_NODE_LISTEN,
    httpListen:
      values.STORAGE_NODE_HTTP_LISTEN === "off" ? undefined : values.STORAGE_NODE_HTTP_LISTEN,
    access,
    unprotected,
    socket: values.STORAGE_NODE_SOCKET,
    root: values.STORAGE_NODE_ROOT,
    stateDir: values.STORAGE_NODE_STATE_DIR,
    fleet: values.STORAGE_NODE_FLEET,
    nqnPrefix: values.STORAGE_NODE_NQN_PREFIX,
    listenAddresses: addresses.map((traddr) => ({
      trtype: values.STORAGE_NODE_EXPORT_TRTYPE,
      adrfam: addressFamily(traddr),
      traddr,
      trsvcid: values.STORAGE_NODE_EXPORT_PORT,
    })),
    maxExports: Number(values.STORAGE_NODE_MAX_EXPORTS),
    diskPolicy: values.STORAGE_NODE_DISK_POLICY,
    diskAllow,
    diskSettleMs: Number(values.STORAGE_NODE_DISK_SETTLE) * 1_000,
    fabricDisks,
    overcommit: Number(values.STORAGE_NODE_OVERCOMMIT),
    isolation: values.STORAGE_NODE_ISOLATION,
    zeroing: values.STORAGE_NODE_ZEROING,
    zeroingHoldMs: holdMs(values.STORAGE_NODE_ZEROING_HOLD),
    zeroingSharePercent: Number(values.STORAGE_NODE_ZEROING_SHARE),
    spaceThresholds: spaceThresholds(values.STORAGE_NODE_SPACE_LOW),
    healthThresholds: health,
    reconnectGraceMs: Number(values.STORAGE_NODE_RECONNECT_GRACE) * 1_000,
    targetSilenceMs: Number(values.STORAGE_NODE_TARGET_SILENCE) * 1_000,
    metricsIostat: values.STORAGE_NODE_METRICS_IOSTAT,
    eventRetentionMs: Number(values.STORAGE_NODE_EVENT_RETENTION) * DAY_MS,
    logLevel: values.LOG_LEVEL,
    telemetry: telemetryConfig(values),
  });
}

function holdMs(hold: string): number {
  if (hold === "always") return Number.POSITIVE_INFINITY;
  return hold === "never" ? 0 : Number(hold) * 1_000;
}

function percentages(pair: string): readonly number[] {
  return pair.split(",").map(Number);
}

function spaceThresholds(pair: string): SpaceThresholds {
  const [lowPercent = 0, criticalPercent = 0] = percentages(pair);
  return {
    lowPercent,
    criticalPercent,
    marginPercent: SPACE_MARGIN_PERCENT,
    recordPercent: SPACE_RECORD_PERCENT,
  };
}

function exportAddresses(list: string, faults: string[]): string[] {
  const addresses = list.split(",").map((part) => part.trim());
  for (const address of addresses) {
    if (!isIPv4(address) && !isIPv6(address)) {
      faults.push(`STORAGE_NODE_EXPORT_ADDR: "${address}" is not an IP address`);
    }
  }
  if (new Set(addresses).size !== addresses.length) {
    faults.push("STORAGE_NODE_EXPORT_ADDR: names an address twice");
  }
  return addresses;
}

/** As readConfig, but prints the faults to stderr and returns undefined instead of throwing. */
export function readConfigOrFaults(io: {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly stderr: (text: string) => void;
}): Config | undefined {
  try {
    return readConfig(io.env);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    io.stderr(`storage-node: ${error.message}`);
    return undefined;
  }
}
