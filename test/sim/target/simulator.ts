// Runs the `sim` command as a child process, over disks in a temporary folder.
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const MAIN = fileURLToPath(new URL("../../../src/main.ts", import.meta.url));

export type Simulator = AsyncDisposable & {
  readonly folder: string;
  readonly socketPath: string;
  /** Attach parameters of each disk. */
  readonly disks: readonly Readonly<Record<string, string>>[];
  /** Kills the process with SIGKILL and starts a new one over the same state. */
  readonly restart: () => Promise<void>;
  /** Resolves with the exit code and the output on stderr once the process ended. */
  readonly ended: () => Promise<{ readonly code: number | null; readonly stderr: string }>;
};

export type SimulatorOptions = {
  readonly disks?: readonly {
    readonly block_size: number;
    readonly num_blocks: number;
    readonly prefill?: number;
    readonly unmap?: "keeps" | "zeroes";
  }[];
  /** Additional arguments; the control socket is always at `control` in the folder. */
  readonly args?: readonly string[];
};

const ONE_DISK = [{ block_size: 4096, num_blocks: 262_144 }];

export async function simulator(options: SimulatorOptions = {}): Promise<Simulator> {
  const folder = await temporaryFolder();
  const at = (name: string) => join(folder.path, name);
  const disks = (options.disks ?? ONE_DISK).map((size, index) => ({
    ...size,
    serial: `SIM${index}`,
    model: "SIMULATED",
    trtype: "TCP",
    traddr: "127.0.0.1",
    trsvcid: `${9_000 + index}`,
    subnqn: `nqn.2026-11.io.test:disk${index}`,
  }));
  await writeFile(at("disks.json"), JSON.stringify(disks));
  const args = ["sim", "--socket", at("s"), "--disks", at("disks.json"), "--state", at("state")];
  args.push("--control", at("control"));
  let running = await start([...args, ...(options.args ?? [])]);
  return {
    folder: folder.path,
    socketPath: at("s"),
    disks: disks.map(({ trtype, traddr, trsvcid, subnqn }) => ({
      trtype,
      traddr,
      trsvcid,
      subnqn,
      adrfam: "IPv4",
    })),
    restart: async () => {
      await kill(running.child);
      running = await start([...args, ...(options.args ?? [])]);
    },
    ended: async () => {
      if (running.child.exitCode === null) await once(running.child, "close");
      return { code: running.child.exitCode, stderr: running.stderr() };
    },
    [Symbol.asyncDispose]: async () => {
      await kill(running.child);
      await folder[Symbol.asyncDispose]();
    },
  };
}

type Running = { readonly child: ChildProcess; readonly stderr: () => string };

/** Resolves when the process reports that it serves its socket. */
async function start(args: readonly string[]): Promise<Running> {
  const flags = ["--disable-warning=ExperimentalWarning"];
  const child = spawn(process.execPath, [...flags, MAIN, ...args], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
  const listening = once(child.stdout, "data").then(() => true);
  const failed = once(child, "close").then(() => false);
  if (!(await Promise.race([listening, failed]))) throw new Error(`sim ended: ${stderr}`);
  return { child, stderr: () => stderr };
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill("SIGKILL");
  await once(child, "close");
}
