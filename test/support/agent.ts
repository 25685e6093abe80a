// An agent in this process over a real database and a target, with a client that speaks to it over
// the wire.
import {
  credentials,
  Metadata,
  type CallOptions,
  type ClientUnaryCall,
  type ServiceError,
} from "@grpc/grpc-js";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pino, type Logger } from "pino";
import { readConfig } from "../../src/config.ts";
import { BadRequest, ErrorInfo } from "../../src/gen/google/rpc/error_details.ts";
import { Status } from "../../src/gen/google/rpc/status.ts";
import { StorageNodeClient } from "../../src/gen/storagenode/v1/storage_node.ts";
import { startNode, type RunningNode, type Timing } from "../../src/node.ts";
import { MIGRATIONS_DIR } from "../../src/store/migrate.ts";
import { openKernel, type Kernel } from "../../src/sysfs/kernel.ts";
import type { Telemetry } from "../../src/telemetry/telemetry.ts";
import type { TestTarget } from "./target.ts";

export type TestAgent = AsyncDisposable & {
  readonly node: RunningNode;
  readonly address: string;
  readonly client: StorageNodeClient;
  /** Resolves when every fabric disk is UP and the agent is ready. */
  readonly ready: () => Promise<void>;
};

export type AgentParts = {
  readonly lockPath?: string;
  readonly telemetry?: Telemetry;
  readonly log?: Logger;
};

/** The settings of an agent in a test, in whatever process it runs: node-1 of the fleet "test". */
/** For tests that look at free space that is not zeroed. */
export const BY_HAND = { STORAGE_NODE_ZEROING: "manual" } as const;

export function agentEnv(place: {
  readonly url: string;
  readonly target: Pick<TestTarget, "socket" | "fabricDisks">;
  readonly root: string;
  readonly stateDir: string;
}): Readonly<Record<string, string>> {
  return {
    DATABASE_URL: place.url,
    STORAGE_NODE_ID: "node-1",
    STORAGE_NODE_FLEET: "test",
    STORAGE_NODE_SPDK_SOCKET: place.target.socket,
    STORAGE_NODE_FABRIC_DISKS: place.target.fabricDisks,
    STORAGE_NODE_DISK_POLICY: "auto",
    STORAGE_NODE_DISK_SETTLE: "0",
    STORAGE_NODE_LISTEN: "127.0.0.1:0",
    STORAGE_NODE_HTTP_LISTEN: "127.0.0.1:0",
    STORAGE_NODE_EXPORT_PORT: "4440",
    STORAGE_NODE_OVERCOMMIT: "4",
    STORAGE_NODE_RECONNECT_GRACE: "0.2",
    STORAGE_NODE_ROOT: place.root,
    STORAGE_NODE_STATE_DIR: place.stateDir,
  };
}

export async function startAgent(
  parts: {
    readonly url: string;
    readonly target: Pick<TestTarget, "socket" | "fabricDisks">;
    /** Default: a machine without drives. */
    readonly kernel?: Kernel;
    readonly timing?: Partial<Timing>;
  },
  env: Readonly<Record<string, string>> = {},
  { lockPath, telemetry, log: given }: AgentParts = {},
): Promise<TestAgent> {
  const root = await mkdtemp(join(tmpdir(), "sn-root-"));
  const stateDir = await mkdtemp(join(tmpdir(), "sn-state-"));
  const config = readConfig({ ...agentEnv({ ...parts, root, stateDir }), ...env });
  const log = given ?? pino({ level: process.env["TEST_LOG_LEVEL"] ?? "silent" });
  const kernel = parts.kernel ?? openKernel(root);
  const timing = { graceMs: 300, ...parts.timing };
  const migrationsDir = MIGRATIONS_DIR;
  const node = await startNode({ config, kernel, log, migrationsDir, timing, lockPath, telemetry });
  // With TLS as an operator on the node.
  const near = config.socket === undefined ? node.address : `unix:${config.socket}`;
  const client = new StorageNodeClient(near, credentials.createInsecure());
  return {
    node,
    address: node.address,
    client,
    ready: async () => {
      const disks = () => [...node.agent.rows.disks()];
      const isReady = () => {
        const up = disks().filter((disk) => node.agent.diskReadiness(disk).ready).length;
        return node.agent.ready() && up >= config.fabricDisks.length;
      };
      await until("the agent is ready and all its disks are UP", isReady).catch(
        (cause: unknown) => {
          const parts = node.agent.components().map(({ name, reason }) => `${name}: ${reason}`);
          const said = disks().map(({ state, stateReason, lastError, attempt }) => {
            return `disk ${state}: ${stateReason} (${attempt} ${lastError ?? ""})`;
          });
          throw new Error([...parts, ...said].join("; "), { cause });
        },
      );
    },
    [Symbol.asyncDispose]: async () => {
      client.close();
      await node[Symbol.asyncDispose]();
      await rm(root, { recursive: true, force: true });
      await rm(stateDir, { recursive: true, force: true });
    },
  };
}

/** Looks again until test holds; throws, naming what did not come to be, after limitMs. */
export async function until(
  what: string,
  test: () => boolean | Promise<boolean>,
  limitMs = Number(process.env["UNTIL_MS"] ?? 30_000),
): Promise<void> {
  const end = performance.now() + limitMs;
  while (!(await test())) {
    if (performance.now() > end) throw new Error(`not within ${limitMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

type Unary<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: (error: ServiceError | null, response: Response) => void,
) => ClientUnaryCall;

/** Calls a unary method; rejects with grpc-js's ServiceError. */
export function call<Request, Response>(
  client: StorageNodeClient,
  method: Unary<Request, Response>,
  request: Request,
  options: Partial<CallOptions> = {},
): Promise<Response> {
  return new Promise((resolve, reject) => {
    method.call(client, request, new Metadata(), options, (error, response) => {
      if (error === null) resolve(response);
      else reject(error);
    });
  });
}

export type Refused = {
  readonly code: number;
  readonly message: string;
  readonly reason: string;
  readonly metadata: Readonly<Record<string, string>>;
  /** Of google.rpc.BadRequest, in its order. */
  readonly fields: readonly string[];
};

/** The refusal of a call, with its ErrorInfo as it came over the wire. Throws if it succeeded. */
export async function refusal(answer: Promise<unknown>): Promise<Refused> {
  try {
    await answer;
  } catch (error) {
    if (!isServiceError(error)) throw error;
    const [bytes] = error.metadata.get("grpc-status-details-bin");
    const details = Buffer.isBuffer(bytes) ? Status.decode(bytes).details : [];
    const detail = (name: string) =>
      details.find(({ typeUrl }) => typeUrl.endsWith(`google.rpc.${name}`))?.value;
    const info = ErrorInfo.decode(detail("ErrorInfo") ?? new Uint8Array());
    const bad = BadRequest.decode(detail("BadRequest") ?? new Uint8Array());
    return {
      code: error.code,
      message: error.details,
      reason: info.reason,
      metadata: info.metadata,
      fields: bad.fieldViolations.map(({ field }) => field),
    };
  }
  throw new Error("was not refused");
}

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "code" in error && "metadata" in error;
}
