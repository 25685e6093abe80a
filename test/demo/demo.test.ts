// `npm start` with the real processes: stop, kill and restart of the demo and of its parts.
import { randomUUID } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "vitest";
import { FreeSpace, type Disk } from "../../src/gen/storagenode/v1/disk.ts";
import type { Lvol } from "../../src/gen/storagenode/v1/lvol.ts";
import { spdkClient } from "../../src/spdk/client.ts";
import { SpdkConnection } from "../../src/spdk/connection.ts";
import { call, until } from "../support/agent.ts";
import { Control } from "../support/control.ts";
import { demoFolder, type RunningDemo } from "../support/demo.ts";
import { GIB, lvolSpec } from "../support/volumes.ts";

// Concurrent, because these tests mostly wait.
test.concurrent(
  "SIGTERM ends every process; after kill -9 the next start continues",
  async ({ expect }) => {
    await using folder = await demoFolder();
    const id = randomUUID();
    {
      const demo = await folder.start();
      expect(await disks(demo)).toEqual([
        ["DEMO00000001", "DISK_STATE_UP", true, FreeSpace.FREE_SPACE_ZEROED],
        ["DEMO00000002", "DISK_STATE_UP", true, FreeSpace.FREE_SPACE_ZEROED],
        ["DEMO00000003", "DISK_STATE_UP", true, FreeSpace.FREE_SPACE_ZEROED],
      ]);
      const made = await provision(demo, id);
      expect(made.status?.state).toBe("LVOL_STATE_UP");
      const lvol = made.status?.lvolUuid;
      await using control = await Control.open(join(folder.path, "ctl.sock"));
      await control.ask({ op: "write", lvol, offset: 0, hex: "c0ffee" });
      expect(await control.ask({ op: "read", lvol, offset: 0, bytes: 4 })).toEqual({
        hex: "c0ffee00",
      });
      expect(folder.processes()).toHaveLength(PARTS);
      expect(await demo.end("SIGTERM")).toBe(0);
      expect(folder.processes()).toEqual([]);
    }
    let killed: Lvol;
    {
      const demo = await folder.start();
      killed = await volume(demo, id);
      expect(killed.status?.state).toBe("LVOL_STATE_UP");
      expect(await demo.end("SIGKILL")).toBeNull();
      // A demo killed with -9 cannot stop its children.
      expect(folder.processes()).toHaveLength(PARTS - 1);
    }
    const demo = await folder.start();
    expect(folder.processes()).toHaveLength(PARTS);
    const again = await volume(demo, id);
    const why = again.status?.conditions.map(({ type, reason }) => `${type} ${reason}`).join();
    expect(again.status?.state, why).toBe("LVOL_STATE_UP");
    expect(again.status?.lvolUuid).toBe(killed.status?.lvolUuid);
    expect(again.status?.nqn).toBe(killed.status?.nqn);
    expect(await demo.end("SIGINT")).toBe(0);
    expect(folder.processes()).toEqual([]);
  },
);

test.concurrent(
  "a part killed with -9 is restarted, and the volume is restored",
  async ({ expect }) => {
    await using folder = await demoFolder();
    const demo = await folder.start();
    const id = randomUUID();
    await provision(demo, id);
    for (const part of ["target", "agent", "database"] as const) {
      const before = await folder.pidOf(part);
      process.kill(before, "SIGKILL");
      await until(`the ${part} restarted`, () =>
        demo.said().includes(`${part} restarted as process`),
      );
      expect(await folder.pidOf(part)).not.toBe(before);
      expect(await folder.pidOf(part)).toBeGreaterThan(0);
      await until("the volume is exported and UP", async () => {
        const observed = await volume(demo, id).catch(() => undefined);
        const exported = await namespaces(folder.path);
        return observed?.status?.state === "LVOL_STATE_UP" && exported.includes(id);
      });
    }
    await until("another volume can be made", async () => {
      const made = await provision(demo, randomUUID()).catch(() => undefined);
      return made?.status?.state === "LVOL_STATE_UP";
    });
    // The signal of a closed terminal.
    expect(await demo.end("SIGHUP")).toBe(0);
    expect(folder.processes()).toEqual([]);
  },
);

test.concurrent(
  "a second demo on the same folder or port is refused with a message",
  async ({ expect }) => {
    await using folder = await demoFolder();
    await using other = await demoFolder();
    const demo = await folder.start({ launcher: true });

    const second = await folder.run();
    expect(second.code).toBe(1);
    expect(second.said).toContain(`another demo is running on ${folder.path}`);
    expect(second.said).toContain(demo.address);

    const onThePort = await other.run({ STORAGE_NODE_LISTEN: demo.address });
    expect(onThePort.code).toBe(1);
    expect(onThePort.said).toContain(`cannot serve on ${demo.address}`);
    expect(other.processes()).toEqual([]);

    // The first demo is not affected.
    expect(await disks(demo)).toHaveLength(3);

    // A launcher killed with -9 cannot signal the demo, which polls for it.
    expect(await demo.end("SIGKILL")).toBeNull();
    expect(demo.said()).toMatch(/^stopping$/m);
    expect(folder.processes()).toEqual([]);
  },
);

test.concurrent("a demo whose agent cannot run ends, and says why", async ({ expect }) => {
  await using folder = await demoFolder();
  const taken = join(folder.path, "kept.txt");
  await writeFile(taken, "not a socket");
  const { code, said } = await folder.run({ STORAGE_NODE_SOCKET: taken });
  expect(code).toBe(1);
  expect(said).toMatch(/agent ended with code 1 and is not restarted[^]*kept\.txt/);
  expect(folder.processes()).toEqual([]);
});

/**
 * Demo, target, agent, postmaster; the command lines of the postmaster's children lack the folder.
 */
const PARTS = 4;

async function disks({ client }: RunningDemo): Promise<readonly unknown[][]> {
  const { disks } = await call(client, client.listDisks.bind(client), {
    pageSize: 0,
    pageToken: "",
  });
  const facts = ({ status }: Disk) => {
    const store = status?.lvstore;
    return [status?.serial, status?.state, (store?.uuid ?? "") !== "", store?.freeSpace];
  };
  return disks.map(facts).toSorted((a, b) => String(a[0]).localeCompare(String(b[0])));
}

/** Uuids of the namespaces that the running target exports. */
async function namespaces(path: string): Promise<readonly (string | undefined)[]> {
  await using connection = new SpdkConnection({
    path: join(path, "spdk.sock"),
    mayMutate: () => false,
  });
  await until("the target answers", () => connection.connected);
  const subsystems = await spdkClient(connection).nvmfGetSubsystems();
  return subsystems.flatMap((subsystem) => subsystem.namespaces.map(({ uuid }) => uuid));
}

async function provision({ client }: RunningDemo, id: string): Promise<Lvol> {
  const { lvol } = await call(client, client.provisionLvol.bind(client), {
    id,
    spec: lvolSpec({ sizeBytes: 10n * GIB }),
    waitTimeout: { seconds: 30n, nanos: 0 },
    validateOnly: false,
  });
  if (lvol === undefined) throw new Error("no volume in the answer");
  return lvol;
}

async function volume({ client }: RunningDemo, id: string): Promise<Lvol> {
  const { lvol } = await call(client, client.getLvol.bind(client), { lvolId: id });
  if (lvol === undefined) throw new Error("no volume in the answer");
  return lvol;
}
