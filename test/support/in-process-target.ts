// A simulated target inside the test process, for tests that need hundreds of them. Engine, socket
// server and disk journals are those of the `sim` command. A restart drops all state except the
// journals.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Fabric } from "../../src/sim/host/fabric.ts";
import { InProcessFabric } from "../../src/sim/host/in-process-fabric.ts";
import { replayConfig } from "../../src/sim/target/config-file.ts";
import { Engine } from "../../src/sim/target/engine.ts";
import { Disk, type DiskFacts } from "../../src/sim/target/media.ts";
import { releaseNamed, type ReleaseName } from "../../src/sim/target/release.ts";
import { TargetServer } from "../../src/sim/target/server.ts";
import { Target } from "../../src/sim/target/target.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const BLOCK = 4096;

export type InProcessTarget = AsyncDisposable & {
  readonly socket: string;
  /** Path of the JSON file for STORAGE_NODE_FABRIC_DISKS. */
  readonly fabricDisks: string;
  readonly engine: () => Engine;
  readonly state: () => Target;
  readonly resume: () => void;
  /** How simulated hosts reach it; they outlive its restarts (src/sim/host/simulated-host.ts). */
  readonly fabric: Fabric;
  /** Simulates a kill -9: every host loses its connection. */
  readonly kill: () => Promise<void>;
  /**
   * A kill and a restart, or the restart after a kill: a new process with another pid.
   * `configPath`: a saved configuration that it replays before its socket accepts.
   */
  readonly restart: (options?: {
    readonly configPath?: string;
    /** Of the new process and of those after it. */
    readonly release?: ReleaseName;
  }) => Promise<void>;
  /** How often the target has aborted. */
  readonly aborts: () => number;
  /** Rejects when the target aborted. */
  readonly aborted: Promise<never>;
};

export type InProcessOptions = {
  readonly disks?: number;
  readonly diskBytes?: number;
  readonly release?: ReleaseName;
  readonly strict?: boolean;
  readonly unmap?: DiskFacts["unmap"];
  /** What the entries of the fabric disks assert; default: nothing. */
  readonly discardZeroes?: boolean;
};

export async function inProcessTarget({
  disks = 1,
  diskBytes = 4 * 1024 ** 3,
  release = "26.09",
  strict = true,
  unmap = "keeps",
  discardZeroes,
}: InProcessOptions = {}): Promise<InProcessTarget> {
  const folder = await temporaryFolder();
  const socket = join(folder.path, "s");
  const facts = Array.from({ length: disks }, (_, index) => ({
    ...factsOf(index, diskBytes),
    unmap,
  }));
  const fabricDisks = join(folder.path, "fabric.json");
  const entries = facts.map(({ serial, trtype, traddr, trsvcid, subnqn }) => ({
    serial,
    trtype,
    traddr,
    trsvcid,
    subnqn,
    format: true,
    ...(discardZeroes !== undefined && { discard_zeroes: discardZeroes }),
  }));
  await writeFile(fabricDisks, JSON.stringify(entries));
  const aborted = Promise.withResolvers<never>();
  aborted.promise.catch(() => {});
  let aborts = 0;
  let runs = release;
  const onFatal = (error: unknown) => {
    aborts += 1;
    aborted.reject(error);
  };
  const start = async (configPath?: string) =>
    await run({
      facts,
      folder: folder.path,
      socketPath: socket,
      onFatal,
      release: runs,
      strict,
      configPath,
    });
  let running = await start();
  const kill = async () => {
    running.target.end();
    await running.server[Symbol.asyncDispose]();
  };
  return {
    socket,
    fabricDisks,
    engine: () => running.engine,
    state: () => running.target,
    resume: () => running.server.resume(),
    fabric: new InProcessFabric(
      () => running.engine,
      (error) => {
        running.target.end();
        onFatal(error);
      },
    ),
    kill,
    restart: async ({ configPath, release: next = runs } = {}) => {
      await kill();
      runs = next;
      running = await start(configPath);
    },
    aborts: () => aborts,
    aborted: aborted.promise,
    [Symbol.asyncDispose]: async () => {
      await kill();
      await folder[Symbol.asyncDispose]();
    },
  };
}

function factsOf(index: number, bytes: number): DiskFacts {
  return {
    id: `SIM${index}`,
    nsid: 1,
    serial: `SIM${index}`,
    model: "SIMULATED",
    blockSize: BLOCK,
    numBlocks: bytes / BLOCK,
    trtype: "TCP",
    traddr: "127.0.0.1",
    trsvcid: `${9_000 + index}`,
    subnqn: `nqn.2026-11.io.test:disk${index}`,
    prefill: 0xa5,
    unmap: "keeps",
  };
}

type RunOptions = {
  readonly facts: readonly DiskFacts[];
  readonly folder: string;
  readonly socketPath: string;
  readonly onFatal: (error: unknown) => void;
  readonly release: ReleaseName;
  readonly strict: boolean;
  readonly configPath: string | undefined;
};

async function run({ facts, folder, socketPath, strict, configPath, ...options }: RunOptions) {
  const disks = facts.map((one) => new Disk(one, join(folder, "state")));
  const release = releaseNamed(options.release);
  const target = new Target({ disks, maxSubsystems: 1_024, eventTypes: release.eventTypes });
  const engine = new Engine({
    target,
    release,
    strict,
    driveAt: () => "by address",
    groupUse: () => {},
    markDisk: () => {},
    isMarked: () => true,
  });
  const server = new TargetServer({
    socketPath,
    pollMs: 1,
    engine,
    onFatal: (error) => {
      target.end();
      // As with a process that ends: clients and hosts lose their connections.
      void server[Symbol.asyncDispose]();
      options.onFatal(error);
    },
  });
  if (configPath !== undefined) await replayConfig(engine, configPath, 1);
  await server.listen();
  return { target, engine, server };
}
