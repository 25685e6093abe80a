// `storage-node rebuild` on a target that has not loaded every store of the node: what could not be read is not absent.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { run } from "../../src/cli/cli.ts";
import { addressFamily } from "../../src/model/address.ts";
import { controllerName } from "../../src/model/identity.ts";
import { storesLoaded } from "../../src/rebuild/found.ts";
import { spdkClient, type SpdkClient } from "../../src/spdk/client.ts";
import { SpdkConnection } from "../../src/spdk/connection.ts";
import { agentEnv, until } from "../support/agent.ts";
import { testDatabase, type TestDatabase } from "../support/database.ts";
import { drive, nodeWithDrives, settled } from "../support/drives.ts";
import {
  forgetSnapshots,
  onHold,
  restoredNode,
  type RestoredNode,
} from "../support/restored-node.ts";
import { deleteSnapshot, getSnapshot, snapshotIdOf, takeSnapshot } from "../support/snapshots.ts";
import { REAL_SOCKET } from "../support/target.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { getLvol, GIB, idOf, provision } from "../support/volumes.ts";

const ENTRIES = z.array(
  z.object({ trtype: z.string(), traddr: z.string(), trsvcid: z.string(), subnqn: z.string() }),
);
const ROW = z.tuple([z.object({ id: z.string(), lvs_uuid: z.string() })]);
const SMALL = { sizeBytes: GIB / 16n };

/** A backup that knows of two snapshots that they were asked for; one was deleted since. */
async function withOlderSnapshots(node: RestoredNode) {
  const newest = await node.emptyDatabase();
  const [kept, gone] = await node.withAgent(newest, async (agent) => {
    await agent.ready();
    const id = idOf(await provision(agent, SMALL));
    return [await takeSnapshot(agent, id), await takeSnapshot(agent, id)];
  });
  const backup = await node.backup(newest);
  await forgetSnapshots(backup);
  await node.withAgent(newest, async (agent) => {
    await agent.ready();
    await deleteSnapshot(agent, snapshotIdOf(gone));
  });
  return { kept, gone, backup };
}

const lvolNames = ({ target }: RestoredNode) =>
  [...target.state().stores.values()]
    .flatMap(({ lvols }) => [...lvols.values()].map(({ blob }) => blob.name))
    .toSorted();

describe("a snapshot of an older database that was asked for and not taken then", () => {
  it.each([
    ["whose disk is loaded", []],
    ["whose disk is left out and comes back", ["--without", "SIM0"]],
  ])("%s is UP if it was taken since, and is not taken now", async (_name, without) => {
    await using node = await restoredNode();
    const { kept, gone, backup } = await withOlderSnapshots(node);
    const lvols = lvolNames(node);
    if (without.length > 0) await node.target.restart();
    const { code, output } = await node.rebuild(backup, ...without, "--apply");
    expect({ code, output }).toMatchObject({ code: 0 });
    await node.withAgent(backup, async (agent) => {
      await agent.ready();
      const stateOf = async (one: typeof kept) =>
        (await getSnapshot(agent, snapshotIdOf(one))).status?.state;
      await until("both are decided", async () => {
        const states = [await stateOf(kept), await stateOf(gone)];
        return !states.includes("SNAPSHOT_STATE_CREATING");
      });
      const { status } = await getSnapshot(agent, snapshotIdOf(kept));
      expect(status).toMatchObject({
        state: "SNAPSHOT_STATE_UP",
        lvolUuid: kept.status?.lvolUuid,
      });
      expect(await stateOf(gone)).toBe("SNAPSHOT_STATE_FAILED");
      expect(lvolNames(node)).toEqual(lvols);
    });
  });
});

/** A node with a volume on each disk, whose target was restarted and whose database is empty. */
async function lost(stack: AsyncDisposableStack, disks = 1) {
  const node = stack.use(await restoredNode({ disks }));
  const before = await node.emptyDatabase();
  const volumes = await node.withAgent(before, async (agent) => {
    await agent.ready();
    const ids = [...agent.node.agent.rows.disks()].map(({ id }) => id);
    return await Promise.all(ids.map((diskId) => provision(agent, { ...SMALL, diskId })));
  });
  node.target.state().flush();
  await node.target.restart();
  return { node, before, database: await node.emptyDatabase(), volumes: volumes.map(idOf) };
}

/** A client that is not the agent's. */
async function clientOf(stack: AsyncDisposableStack, { target }: RestoredNode) {
  const path = target.socket;
  const connection = stack.use(new SpdkConnection({ path, mayMutate: () => true }));
  await until("it is connected", () => connection.connected);
  return spdkClient(connection);
}

/** Attaches a configured fabric disk as the agent would. */
async function attach(spdk: SpdkClient, { target }: RestoredNode, index = 0): Promise<void> {
  const disks = ENTRIES.parse(JSON.parse(await readFile(target.fabricDisks, "utf8")));
  const [{ trtype, traddr, trsvcid, subnqn } = expect.fail("no such disk")] = disks.slice(index);
  const name = controllerName({ traddr, trsvcid, subnqn });
  const adrfam = addressFamily(traddr);
  await spdk.bdevNvmeAttachController({ name, trtype, traddr, trsvcid, subnqn, adrfam });
}

async function expectHeld(node: RestoredNode, database: TestDatabase): Promise<void> {
  expect(await database.query(`select from disk union all select from lvol`)).toEqual([]);
  await node.withAgent(database, onHold);
}

describe.skipIf(REAL_SOCKET !== undefined)("storage-node rebuild --apply", () => {
  it("is refused while a configured disk is not attached, and names it and the cure", async () => {
    await using stack = new AsyncDisposableStack();
    const { node, database, volumes } = await lost(stack);
    const dry = await node.rebuild(database);
    expect(dry.code).toBe(0);
    expect(dry.output).toMatch(/^not read  SIM0  127\.0\.0\.1:9000: not attached$/m);
    expect(dry.output).toContain("nothing was written; --apply is refused");
    const { code, output } = await node.rebuild(database, "--apply");
    expect(code).toBe(1);
    expect(output).toContain("nothing was written, and the hold stays");
    expect(output).toContain("SIM0");
    expect(output).toContain("storage-node rebuild --attach");
    expect(output).toContain("--without");
    await expectHeld(node, database);
    expect(await node.rebuild(database, "--attach", "--apply")).toMatchObject({ code: 0 });
    await node.withAgent(database, async (agent) => {
      await agent.ready();
      expect((await getLvol(agent, volumes[0] ?? "")).meta?.id).toBe(volumes[0]);
    });
  });

  it("waits until the target has loaded the stores that it is loading", async () => {
    await using stack = new AsyncDisposableStack();
    const { node, database, volumes } = await lost(stack);
    for (const disk of node.target.state().disks) disk.setLate({ attachMs: 0, loadMs: 2_000 });
    const spdk = await clientOf(stack, node);
    const attached = attach(spdk, node);
    await until("the disk is listed", () => node.target.state().controllers.size === 1);
    await expect(storesLoaded(spdk, 50)).rejects.toThrow(/still loads lvstores .* run it again/);
    const { code, output } = await node.rebuild(database, "--apply");
    expect({ code, output }).toMatchObject({ code: 0 });
    expect(output).toContain(`volume  ${volumes[0]}`);
    expect(output).toContain("the target loads lvstores: waiting for it");
    await attached;
  });

  it("goes on without a drive that is lost, if that is named", async () => {
    await using stack = new AsyncDisposableStack();
    const { node, database, volumes } = await lost(stack, 2);
    await attach(await clientOf(stack, node), node, 1);
    const refused = await node.rebuild(database, "--apply");
    expect(refused.code).toBe(1);
    expect(refused.output).toMatch(/^not read  SIM0 /m);
    expect(refused.output).not.toMatch(/^not read  SIM1 /m);
    const other = await node.rebuild(database, "--without", "SIM0", "--without", "SIM1", "--apply");
    expect(other.code).toBe(1);
    expect(other.output).toContain("--without SIM1: no disk that was not read is called so");
    await expectHeld(node, database);
    const { code, output } = await node.rebuild(database, "--without", "SIM0", "--apply");
    expect({ code, output }).toMatchObject({ code: 0 });
    expect(output).toMatch(/^left out  SIM0 /m);
    expect(output).toMatch(/^written: 1 disks, 1 volumes/m);
    expect(output).toContain(volumes[1]);
  });

  it("is refused while a disk whose row names a store does not have it loaded", async () => {
    await using stack = new AsyncDisposableStack();
    const { node, before, volumes } = await lost(stack);
    const [row] = ROW.parse(await before.query(`select id, lvs_uuid from disk`));
    const { id, lvs_uuid: lvsUuid } = row;
    const spdk = await clientOf(stack, node);
    await attach(spdk, node);
    for (const { uuid } of await spdk.bdevLvolGetLvols()) {
      await spdk.bdevLvolDelete({ lvsUuid: lvsUuid, name: uuid });
    }
    await spdk.bdevLvolDeleteLvstore(lvsUuid);
    const { code, output } = await node.rebuild(before, "--apply");
    expect(code).toBe(1);
    const why = `attached, but its lvstore ${lvsUuid} is not loaded`;
    expect(output).toContain(`not read  ${id}  SIM0  127.0.0.1:9000: ${why}`);
    expect(output).not.toContain("holds no lvstore");
    const without = ["--without", id];
    expect(await node.rebuild(before, ...without, "--apply")).toMatchObject({ code: 0 });
    expect(await before.query(`select id from lvol`)).toEqual([{ id: volumes[0] }]);
  });

  it("takes a configured disk for blank that is attached and has no store", async () => {
    await using node = await restoredNode();
    const database = await node.emptyDatabase();
    const { code, output } = await node.rebuild(database, "--attach", "--apply");
    expect({ code, output }).toMatchObject({ code: 0 });
    expect(output).toContain("left    disk SIM0: holds no lvstore");
    // Attached already: that is no failure.
    expect((await node.rebuild(database, "--attach")).output).not.toContain("not attached");
  });

  it("is refused while an NVMe function on vfio-pci is not attached", async () => {
    await using stack = new AsyncDisposableStack();
    const node = stack.use(await nodeWithDrives({ drives: [drive(1), drive(2)] }));
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_UP", SER2: "DISK_STATE_UP" });
    await agent[Symbol.asyncDispose]();
    await node.target.restart();
    const empty = stack.use(await testDatabase());
    const folder = stack.use(await temporaryFolder());
    const rebuild = async ({ url }: TestDatabase, ...args: readonly string[]) => {
      const lines: string[] = [];
      const print = (text: string) => lines.push(text);
      const stateDir = join(folder.path, "state");
      const env = agentEnv({ url, target: node.target, stateDir, root: node.kernel.root });
      const { signal } = new AbortController();
      const code = await run(["rebuild", ...args], { env, signal, stdout: print, stderr: print });
      return { code, output: lines.join("\n") };
    };
    const refused = await rebuild(empty, "--apply");
    expect(refused.code).toBe(1);
    expect(refused.output).toMatch(/^not read  0000:01:00\.0: on vfio-pci, and not attached$/m);
    expect(refused.output).toMatch(/^not read  0000:02:00\.0: /m);
    // A drive that has a row is listed once.
    const { output: known } = await rebuild(node.database);
    expect(known.match(/^not read /gm)).toHaveLength(2);
    expect(known).toMatch(/^not read  [0-9a-f-]{36}  SER1  0000:01:00\.0: not attached$/m);
    const both = ["--without", "0000:01:00.0", "--without", "0000:02:00.0"];
    expect(await rebuild(empty, ...both)).toMatchObject({ code: 0 });
    expect(await rebuild(empty, "--attach", "--apply")).toMatchObject({ code: 0 });
    expect(await empty.query(`select serial from disk order by serial`)).toEqual([
      { serial: "SER1" },
      { serial: "SER2" },
    ]);
    const env = { DATABASE_URL: empty.url, STORAGE_NODE_STATE_DIR: join(folder.path, "state") };
    await settled(await node.start(env), { SER1: "DISK_STATE_UP", SER2: "DISK_STATE_UP" });
  });
});
