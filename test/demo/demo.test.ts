// What npm start promises, with the real processes.
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { test } from "vitest";
import { FreeSpace, type Disk } from "../../src/gen/storagenode/v1/disk.ts";
import type { Lvol } from "../../src/gen/storagenode/v1/lvol.ts";
import { spdkClient } from "../../src/spdk/client.ts";
import { SpdkConnection } from "../../src/spdk/connection.ts";
import { call, until } from "../support/agent.ts";
import { demoFolder, type RunningDemo } from "../support/demo.ts";
import { GIB, lvolSpec } from "../support/volumes.ts";

// Side by side: they wait more than they compute.
test.concurrent(
  "SIGTERM ends all of it; killed with -9 it is all there again",
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
      expect((await provision(demo, id)).status?.state).toBe("LVOL_STATE_UP");
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
      // Nobody told the others.
      expect(folder.processes()).toHaveLength(PARTS - 1);
    }
    const demo = await folder.start();
    expect(folder.processes()).toHaveLength(PARTS);
    const again = await volume(demo, id);
    expect(again.status?.state).toBe("LVOL_STATE_UP");
    expect(again.status?.lvolUuid).toBe(killed.status?.lvolUuid);
    expect(again.status?.nqn).toBe(killed.status?.nqn);
    expect(await demo.end("SIGINT")).toBe(0);
    expect(folder.processes()).toEqual([]);
  },
);

test.concurrent(
  "each part that is killed with -9 comes back with the volume",
  async ({ expect }) => {
    await using folder = await demoFolder();
    const demo = await folder.start();
    const id = randomUUID();
    await provision(demo, id);
    for (const part of ["target", "agent", "database"] as const) {
      const before = await folder.pidOf(part);
      process.kill(before, "SIGKILL");
      await until(`the ${part} runs again`, () =>
        demo.said().includes(`${part} runs again as process`),
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
    // As when the terminal is closed.
    expect(await demo.end("SIGHUP")).toBe(0);
    expect(folder.processes()).toEqual([]);
  },
);

test.concurrent(
  "a second demo on the folder, or the port, is refused in words",
  async ({ expect }) => {
    await using folder = await demoFolder();
    await using other = await demoFolder();
    const demo = await folder.start({ launcher: true });

    const second = await folder.run();
    expect(second.code).toBe(1);
    expect(second.said).toContain(`a demo runs on ${folder.path} already`);
    expect(second.said).toContain(demo.address);

    const onThePort = await other.run({ STORAGE_NODE_LISTEN: demo.address });
    expect(onThePort.code).toBe(1);
    expect(onThePort.said).toContain(`cannot serve on ${demo.address}`);
    expect(other.processes()).toEqual([]);

    // It was not disturbed by any of that.
    expect(await disks(demo)).toHaveLength(3);

    // The launcher's death cannot be passed on; it is noticed.
    expect(await demo.end("SIGKILL")).toBeNull();
    expect(demo.said()).toMatch(/^stopping$/m);
    expect(folder.processes()).toEqual([]);
  },
);

/** Demo, target, agent, postmaster; the postmaster's children do not name the folder. */
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

/** What the target that runs now exports, by uuid. */
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
