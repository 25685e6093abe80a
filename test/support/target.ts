// The SPDK target of the end-to-end suite: the simulator as a child process, or a real target given
// by STORAGE_NODE_TEST_SPDK_SOCKET and STORAGE_NODE_TEST_FABRIC_DISKS; all data on these disks is
// destroyed. STORAGE_NODE_TEST_RESTART_CMD kills and restarts the real target.
import { execFile, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { spdkClient, type SpdkClient } from "../../src/spdk/client.ts";
import { SpdkConnection } from "../../src/spdk/connection.ts";
import { Control } from "./control.ts";

export const REAL_SOCKET = process.env["STORAGE_NODE_TEST_SPDK_SOCKET"];
const RESTART_CMD = process.env["STORAGE_NODE_TEST_RESTART_CMD"];

/** A target that is already running. */
export type RealTarget = {
  readonly socket: string;
  /** Path of the JSON file for STORAGE_NODE_FABRIC_DISKS; the data of these disks is destroyed. */
  readonly fabricDisks: string;
  /** Shell command that kills and restarts the target; undefined: none. */
  readonly restartCommand: string | undefined;
};

function targetOfEnvironment(): RealTarget | undefined {
  if (REAL_SOCKET === undefined) return undefined;
  const fabricDisks = process.env["STORAGE_NODE_TEST_FABRIC_DISKS"];
  if (fabricDisks === undefined) {
    throw new Error("STORAGE_NODE_TEST_FABRIC_DISKS must name the disks of the real target");
  }
  return { socket: REAL_SOCKET, fabricDisks, restartCommand: RESTART_CMD };
}

/** Whether the target can be killed and restarted: always true for the simulator. */
export const CAN_KILL = REAL_SOCKET === undefined || RESTART_CMD !== undefined;

const MAIN = fileURLToPath(new URL("../../src/main.ts", import.meta.url));

export type TestTarget = AsyncDisposable & {
  readonly socket: string;
  /** Path of the JSON file for STORAGE_NODE_FABRIC_DISKS. */
  readonly fabricDisks: string;
  /** A client separate from the agent's: the agent does not know of its changes. */
  readonly spdk: SpdkClient;
  /** Pid of the running simulator; undefined for a real target. */
  readonly pid: () => number | undefined;
  /** Kills the target with SIGKILL and restarts it; resolves when its socket accepts. */
  readonly restart: () => Promise<void>;
  /** Kills the target without a restart (simulator only). */
  readonly kill: () => Promise<void>;
  /** The control socket, for hosts that outlive the process; undefined for a real target. */
  readonly controlPath: string | undefined;
  /** Opens the control socket of the running process (simulator only). */
  readonly control: () => Promise<Control>;
};

export type TargetOptions = {
  readonly disks?: number;
  readonly diskBytes?: bigint;
  readonly args?: readonly string[];
  /** The entries of the simulator's fabric disks assert that discards zero; default: nothing. */
  readonly discardZeroes?: boolean;
  /** Simulator only: PCIe drives instead of fabric disks, attached through the kernel at `root`. */
  readonly drives?: { readonly root: string; readonly disks: readonly SimulatedDisk[] };
};

/** An entry of `sim --disks`. */
export type SimulatedDisk = {
  readonly id?: string;
  readonly serial: string;
  readonly nsid?: number;
  readonly model: string;
  readonly block_size: number;
  readonly num_blocks: number;
  readonly trtype: string;
  readonly traddr: string;
  readonly trsvcid?: string;
  readonly subnqn?: string;
};

export async function startTarget(options: TargetOptions = {}): Promise<TestTarget> {
  const real = targetOfEnvironment();
  return real === undefined ? await simulatedTarget(options) : await realTarget(real);
}

export async function simulatedTarget(options: TargetOptions): Promise<TestTarget> {
  const dir = await mkdtemp(join(tmpdir(), "sn-t-"));
  const socket = join(dir, "spdk.sock");
  const blocks = (options.diskBytes ?? 64n * 1024n ** 3n) / 4096n;
  const fabric = Array.from(
    { length: options.drives === undefined ? (options.disks ?? 2) : 0 },
    (_, index) => ({
      serial: `SIM${index}`,
      model: "SIMULATED",
      block_size: 4096,
      num_blocks: Number(blocks),
      trtype: "TCP",
      traddr: "127.0.0.1",
      trsvcid: `${9000 + index}`,
      subnqn: `nqn.2026-11.io.test:disk${index}`,
    }),
  );
  const entries = fabric.map(({ serial, trtype, traddr, trsvcid, subnqn }) => ({
    serial,
    trtype,
    traddr,
    trsvcid,
    subnqn,
    format: true,
    ...(options.discardZeroes !== undefined && { discard_zeroes: options.discardZeroes }),
  }));
  const disks = options.drives?.disks ?? fabric;
  await writeFile(join(dir, "disks.json"), JSON.stringify(disks));
  await writeFile(join(dir, "fabric.json"), JSON.stringify(entries));
  const args = ["sim", "--socket", socket, "--disks", join(dir, "disks.json")];
  const control = join(dir, "control.sock");
  args.push("--state", join(dir, "state"), "--control", control, "--strict");
  if (options.drives !== undefined) args.push("--root", options.drives.root);
  args.push(...(options.args ?? []));
  let child = await startSim(args, socket);
  const connection = new SpdkConnection({ path: socket, mayMutate: () => true });
  const kill = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGKILL");
    await once(child, "exit");
  };
  return {
    socket,
    fabricDisks: join(dir, "fabric.json"),
    spdk: spdkClient(connection),
    pid: () => child.pid,
    kill,
    controlPath: control,
    control: async () => await Control.open(control),
    restart: async () => {
      await kill();
      child = await startSim(args, socket);
      await connected(connection);
    },
    [Symbol.asyncDispose]: async () => {
      await connection[Symbol.asyncDispose]();
      await kill();
      await rm(dir, { recursive: true, force: true });
    },
  };
}

async function startSim(args: readonly string[], socket: string): Promise<ChildProcess> {
  const child = spawn(process.execPath, [MAIN, ...args], {
    stdio: ["ignore", "ignore", "inherit"],
  });
  let exited = false;
  child.once("exit", () => (exited = true));
  while (!(await accepts(socket))) {
    if (exited) throw new Error(`the simulated target exited with code ${child.exitCode}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return child;
}

/** Whether a process accepts connections on the socket. */
export function accepts(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(socket);
    probe.once("connect", () => resolve(true));
    probe.once("error", () => resolve(false));
    probe.once("close", () => probe.destroy());
    probe.once("connect", () => probe.destroy());
  });
}

async function connected(connection: SpdkConnection): Promise<void> {
  if (connection.connected) return;
  await new Promise<void>((resolve) => {
    const stop = connection.onConnected(() => {
      stop();
      resolve();
    });
  });
}

export async function realTarget({
  socket,
  fabricDisks,
  restartCommand,
}: RealTarget): Promise<TestTarget> {
  const connection = new SpdkConnection({ path: socket, mayMutate: () => true });
  await connected(connection);
  const spdk = spdkClient(connection);
  await wipe(spdk);
  return {
    socket,
    fabricDisks,
    spdk,
    pid: () => undefined,
    controlPath: undefined,
    kill: () => Promise.reject(new Error("a real target can be restarted, but not killed")),
    control: () => Promise.reject(new Error("a real target cannot be stopped at a request")),
    restart: async () => {
      if (restartCommand === undefined)
        throw new Error("STORAGE_NODE_TEST_RESTART_CMD is not set: cannot restart the real target");
      await promisify(execFile)("/bin/sh", ["-c", restartCommand]);
      await connected(connection);
    },
    [Symbol.asyncDispose]: async () => {
      await wipe(spdk);
      await connection[Symbol.asyncDispose]();
    },
  };
}

/** Deletes all subsystems, lvstores and controllers of a real target. */
async function wipe(spdk: SpdkClient): Promise<void> {
  const subsystems = await spdk.nvmfGetSubsystems();
  const ours = subsystems.filter(({ subtype }) => subtype === "NVMe");
  await Promise.all(ours.map(({ nqn }) => spdk.nvmfDeleteSubsystem(nqn)));
  for (const { uuid } of await spdk.bdevLvolGetLvstores()) await spdk.bdevLvolDeleteLvstore(uuid);
  for (const { name } of await spdk.bdevNvmeGetControllers()) {
    await spdk.bdevNvmeDetachController(name);
  }
}
