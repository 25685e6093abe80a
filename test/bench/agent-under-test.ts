// The agent as it is run: `main.ts serve`, a process of its own, with a client that speaks to it.
import { credentials } from "@grpc/grpc-js";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { freeAddress } from "../../src/demo/listen-address.ts";
import { StorageNodeClient } from "../../src/gen/storagenode/v1/storage_node.ts";
import { agentEnv, call, until } from "../support/agent.ts";
import { cpuMs } from "./cpu.ts";

const MAIN = fileURLToPath(new URL("../../src/main.ts", import.meta.url));
const PROBE = new URL("./memory-probe.ts", import.meta.url).href;
const READY_MS = 120_000;
const STOP_MS = 20_000;

export const NQN_PREFIX = "nqn.2026-11.io.storage-node";
export const LISTEN = { trtype: "TCP", adrfam: "IPv4", traddr: "127.0.0.1", trsvcid: "4440" };

export type AgentUnderTest = AsyncDisposable & {
  readonly address: string;
  readonly client: StorageNodeClient;
  readonly signal: (signal: "SIGSTOP" | "SIGCONT") => void;
  readonly pid: number | undefined;
  /** Time on a core since its start. */
  readonly cpuMs: () => number;
  /** In bytes, after a garbage collection. */
  readonly memory: () => Promise<Memory>;
};

const memory = z.object({ heapUsed: z.number(), external: z.number(), rss: z.number() });
type Memory = z.output<typeof memory>;

export type AgentPlace = {
  readonly databaseUrl: string;
  readonly socket: string;
  readonly fabricDisks: string;
  readonly disks: number;
  readonly stateDir: string;
  /** Where a CPU profile of each run of the agent goes. */
  readonly profileDir: string | undefined;
};

/** Resolves when it is ready and all its disks are UP. */
export async function startAgentProcess(place: AgentPlace): Promise<AgentUnderTest> {
  const address = await freeAddress("127.0.0.1:0");
  const { profileDir } = place;
  const profile = profileDir === undefined ? [] : ["--cpu-prof", `--cpu-prof-dir=${profileDir}`];
  const child = spawn(process.execPath, [...profile, "--import", PROBE, MAIN, "serve"], {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
    env: {
      ...process.env,
      ...agentEnv({
        url: place.databaseUrl,
        target: place,
        root: join(place.stateDir, "root"),
        stateDir: join(place.stateDir, "agent-state"),
      }),
      STORAGE_NODE_LISTEN: address,
      STORAGE_NODE_NQN_PREFIX: NQN_PREFIX,
      STORAGE_NODE_EXPORT_ADDR: LISTEN.traddr,
      STORAGE_NODE_EXPORT_PORT: LISTEN.trsvcid,
      STORAGE_NODE_OVERCOMMIT: "999",
      STORAGE_NODE_MAX_EXPORTS: "6000",
      LOG_LEVEL: process.env["TEST_LOG_LEVEL"] ?? "fatal",
    },
  });
  const ended = once(child, "exit");
  const client = new StorageNodeClient(address, credentials.createInsecure(), {
    "grpc.initial_reconnect_backoff_ms": 50,
    "grpc.max_reconnect_backoff_ms": 200,
  });
  const alive = () => child.exitCode === null && child.signalCode === null;
  const agent = {
    address,
    client,
    pid: child.pid,
    signal: (signal: NodeJS.Signals) => void child.kill(signal),
    cpuMs: () => cpuMs(child.pid),
    memory: async () => {
      const answered = once(child, "message");
      child.send("memory");
      const [answer] = await answered;
      return memory.parse(answer);
    },
    [Symbol.asyncDispose]: async () => {
      client.close();
      if (!alive()) return;
      child.kill("SIGCONT");
      child.kill("SIGTERM");
      const late = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
      await ended;
      clearTimeout(late);
    },
  };
  try {
    await until("the agent is ready", () => isReady(client, place.disks, alive), READY_MS);
  } catch (error) {
    await agent[Symbol.asyncDispose]();
    throw error;
  }
  return agent;
}

async function isReady(
  client: StorageNodeClient,
  disks: number,
  alive: () => boolean,
): Promise<boolean> {
  if (!alive()) throw new Error("the agent ended");
  try {
    const options = { deadline: Date.now() + 5_000 };
    const health = await call(client, client.getHealth.bind(client), {}, options);
    if (!health.ready) return false;
    const page = { pageSize: 0, pageToken: "" };
    const listed = await call(client, client.listDisks.bind(client), page, options);
    return listed.disks.filter(({ status }) => status?.state === "DISK_STATE_UP").length >= disks;
  } catch {
    // It does not listen yet.
    return false;
  }
}
