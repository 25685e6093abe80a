// A simulated target inside the test's process, for tests that need hundreds of them: the same engine,
// the same socket server, the same journals on disk. A kill drops everything but the journals.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Engine } from "../../src/sim/target/engine.ts";
import { Disk, type DiskFacts } from "../../src/sim/target/media.ts";
import { TargetServer } from "../../src/sim/target/server.ts";
import { Target } from "../../src/sim/target/target.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const BLOCK = 4096;

export type InProcessTarget = AsyncDisposable & {
  readonly socket: string;
  /** As STORAGE_NODE_FABRIC_DISKS names them. */
  readonly fabricDisks: string;
  readonly engine: () => Engine;
  readonly state: () => Target;
  readonly resume: () => void;
  /** What a kill -9 and a new start do. */
  readonly restart: () => Promise<void>;
  /** Rejects when the target aborted. */
  readonly aborted: Promise<never>;
};

export async function inProcessTarget({
  disks = 1,
  diskBytes = 4 * 1024 ** 3,
}: { readonly disks?: number; readonly diskBytes?: number } = {}): Promise<InProcessTarget> {
  const folder = await temporaryFolder();
  const socket = join(folder.path, "s");
  const facts = Array.from({ length: disks }, (_, index) => factsOf(index, diskBytes));
  const fabricDisks = join(folder.path, "fabric.json");
  const entries = facts.map(({ serial, trtype, traddr, trsvcid, subnqn }) => ({
    serial,
    trtype,
    traddr,
    trsvcid,
    subnqn,
    format: true,
  }));
  await writeFile(fabricDisks, JSON.stringify(entries));
  const aborted = Promise.withResolvers<never>();
  aborted.promise.catch(() => {});
  const start = async () => await run(facts, folder.path, socket, aborted.reject);
  let running = await start();
  return {
    socket,
    fabricDisks,
    engine: () => running.engine,
    state: () => running.target,
    resume: () => running.server.resume(),
    restart: async () => {
      await running.server[Symbol.asyncDispose]();
      running = await start();
    },
    aborted: aborted.promise,
    [Symbol.asyncDispose]: async () => {
      await running.server[Symbol.asyncDispose]();
      await folder[Symbol.asyncDispose]();
    },
  };
}

function factsOf(index: number, bytes: number): DiskFacts {
  return {
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

async function run(
  facts: readonly DiskFacts[],
  folder: string,
  socketPath: string,
  onFatal: (error: unknown) => void,
) {
  const disks = facts.map((one) => new Disk(one, join(folder, "state")));
  const target = new Target({ disks, maxSubsystems: 1_024 });
  const engine = new Engine({
    target,
    strict: true,
    attachable: () => true,
    markDisk: () => {},
  });
  const server = new TargetServer({ socketPath, pollMs: 1, engine, onFatal });
  await server.listen();
  return { target, engine, server };
}
