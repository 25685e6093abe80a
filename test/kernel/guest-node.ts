// A storage node in a booted machine: target and agent in the guest, their database here.
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { credentials, Metadata } from "@grpc/grpc-js";
import { inject } from "vitest";
import { StorageNodeClient } from "../../src/gen/storagenode/v1/storage_node.ts";
import { testDatabase } from "../support/database.ts";
import { TcpRelay } from "../support/tcp-relay.ts";
import { AGENT_PROGRAM } from "./bundle.ts";
import type { EmulatedDrive, PluggableDrive } from "./drives.ts";
import { putInSlot, SLOTS, SPDK_SOCKET } from "./guest-drives.ts";
import { AGENT_PORT, Machine, type Iommu } from "./machine.ts";

/** Of the guest; what the simulated target keeps does not use any. */
const HUGEPAGES = { simulated: 8, real: 440 };
const REAL_TARGET = "spdk_tgt -s 640";
/** A call that is made while the agent starts waits so long for it. */
const START_MS = 120_000;
const ALL = { pageSize: 0, pageToken: "" };

export type GuestNode = AsyncDisposable & {
  readonly machine: Machine;
  readonly client: StorageNodeClient;
  /** How often an agent has detached a controller, or has tried to. */
  readonly detaches: () => Promise<number>;
  /**
   * Starts the target again that a test has killed; resolves when its socket is there. A real one by this
   * command, if one is given.
   */
  readonly startTarget: (realCommand?: string) => Promise<void>;
  /** Starts an agent with these settings besides the usual ones; resolves when it has read its rows. */
  readonly startAgent: (env?: Readonly<Record<string, string>>) => Promise<void>;
};

/** Steps of agents so far that were to detach a controller. */
async function detaches(machine: Machine): Promise<number> {
  return Number(await machine.sh("grep -c detach-controller /run/agent.log || true"));
}

export async function guestNode(options: {
  readonly drives: readonly (EmulatedDrive | PluggableDrive)[];
  /** What the simulated target can attach, as `sim --disks` has it. */
  readonly disks: readonly object[];
  readonly iommu: Iommu;
  readonly memoryMib?: number;
}): Promise<GuestNode> {
  await using stack = new AsyncDisposableStack();
  const { kernelImage, initramfs, spdkTarget } = inject("guest");
  const database = stack.use(await testDatabase());
  const url = new URL(database.url.replace("@/", "@localhost/"));
  const socket = `${url.searchParams.get("host")}/.s.PGSQL.${url.searchParams.get("port")}`;
  const relay = stack.use(await TcpRelay.open(socket));
  const hugepages = spdkTarget === undefined ? HUGEPAGES.simulated : HUGEPAGES.real;
  const machine = stack.use(await Machine.boot({ ...options, kernelImage, initramfs, hugepages }));
  const client = new StorageNodeClient(machine.agentAddress, credentials.createInsecure());
  stack.defer(() => client.close());
  for (const drive of options.drives) {
    if ("port" in drive && drive.isAway !== true) await putInSlot(machine, drive);
  }
  await startTarget(machine, options.disks, spdkTarget && REAL_TARGET);
  const [, port] = relay.address.split(":");
  const base = {
    DATABASE_URL: `postgresql://postgres@10.0.2.2:${port}/${database.name}`,
    STORAGE_NODE_ID: "kernel-1",
    STORAGE_NODE_FLEET: "test",
    STORAGE_NODE_SPDK_SOCKET: SPDK_SOCKET,
    STORAGE_NODE_LISTEN: `0.0.0.0:${AGENT_PORT}`,
    STORAGE_NODE_INSECURE: "1",
    STORAGE_NODE_HTTP_LISTEN: "off",
    STORAGE_NODE_STATE_DIR: "/run/storage-node",
    STORAGE_NODE_DISK_ALLOW: "serial:KT*",
    STORAGE_NODE_RECONNECT_GRACE: "0.2",
  };
  stack.defer(async () => await keepLogs(machine));
  const owned = stack.move();
  return {
    machine,
    client,
    detaches: async () => await detaches(machine),
    startTarget: async (realCommand) =>
      await startTarget(machine, options.disks, spdkTarget && (realCommand ?? REAL_TARGET)),
    startAgent: async (env = {}) => {
      const settings = Object.entries({ ...base, ...env }).map(
        ([name, value]) => `${name}='${value}'`,
      );
      await machine.sh(
        `mkdir -p /run/storage-node; ${settings.join(" ")} setsid node ${AGENT_PROGRAM} serve ` +
          ">>/run/agent.log 2>&1 </dev/null & echo $! >/run/agent.pid",
      );
      await answering(machine, client);
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** For whoever looks for the cause of a failure. */
async function keepLogs(machine: Machine): Promise<void> {
  const folder = process.env["STORAGE_NODE_TEST_GUEST_LOGS"];
  if (folder === undefined) return;
  await mkdir(folder, { recursive: true });
  for (const name of ["agent", "target"]) {
    const { stdout } = await machine.run(`cat /run/${name}.log`);
    await writeFile(join(folder, `${name}-${Date.now()}.log`), stdout);
  }
}

async function startTarget(
  machine: Machine,
  disks: readonly object[],
  realCommand: string | undefined,
): Promise<void> {
  const known = JSON.stringify(disks);
  await machine.sh(`mkdir -p /run/sim; echo '${known}' >/run/sim/disks.json`);
  const simulated =
    `node ${AGENT_PROGRAM} sim --socket ${SPDK_SOCKET} --disks /run/sim/disks.json ` +
    `--state /run/sim/state --root / --slots ${SLOTS} --strict`;
  const command = realCommand === undefined ? simulated : `${realCommand} -m 0x1 -r ${SPDK_SOCKET}`;
  // One that was killed has left its own.
  await machine.sh(`rm -f ${SPDK_SOCKET}`);
  await machine.sh(
    `setsid ${command} >>/run/target.log 2>&1 </dev/null & echo $! >/run/target.pid`,
  );
  await machine.sh(
    `while [ ! -S ${SPDK_SOCKET} ]; do
       [ -e /proc/$(cat /run/target.pid) ] || { cat /run/target.log; exit 1; }
       usleep 50000
     done`,
  );
}

async function answering(machine: Machine, client: StorageNodeClient): Promise<void> {
  const limit = performance.now() + START_MS;
  for (;;) {
    const { code } = await machine.run("[ -e /proc/$(cat /run/agent.pid) ]");
    if (code !== 0) throw new Error(`the agent ended:\n${await machine.sh("cat /run/agent.log")}`);
    const answered = await new Promise<boolean>((resolve) => {
      const deadline = new Date(Date.now() + 5_000);
      client.listDisks(ALL, new Metadata(), { deadline }, (error) => resolve(error === null));
    });
    if (answered) return;
    if (performance.now() > limit) {
      throw new Error(`the agent does not answer:\n${await machine.sh("tail -20 /run/agent.log")}`);
    }
  }
}
