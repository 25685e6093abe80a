// The database is lost and the disks are not: the node is on hold until an operator decides, and
// `storage-node rebuild` creates rows from the lvstores on the disks.
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { run } from "../../src/cli/cli.ts";
import {
  BY_HAND,
  agentEnv,
  call,
  refusal,
  startAgent,
  until,
  type TestAgent,
} from "../support/agent.ts";
import { testDatabase, type TestDatabase } from "../support/database.ts";
import { REAL_SOCKET, startTarget, type TestTarget } from "../support/target.ts";
import { deleteSnapshot, getSnapshot, snapshotIdOf, takeSnapshot } from "../support/snapshots.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { getLvol, HOST, idOf, provision, remove, stateOf } from "../support/volumes.ts";

const LIMITS = { rwIops: 3_000n, rwMibPerSecond: 0n, readMibPerSecond: 9n, writeMibPerSecond: 0n };
type Node = {
  readonly database: TestDatabase;
  readonly target: TestTarget;
  readonly stateDir: string;
};

const envOf = ({ database, target, stateDir }: Node) =>
  agentEnv({ url: database.url, target, stateDir, root: "/" });

async function rebuild(node: Node, ...args: readonly string[]) {
  const output: string[] = [];
  const print = (text: string) => output.push(text);
  const signal = new AbortController().signal;
  const io = { env: envOf(node), signal, stdout: print, stderr: print };
  return { code: await run(["rebuild", ...args], io), output: output.join("\n") };
}

async function start({ database, target, stateDir }: Node): Promise<TestAgent> {
  return await startAgent(
    { url: database.url, target },
    { STORAGE_NODE_STATE_DIR: stateDir, ...BY_HAND },
  );
}

async function holdOf({ client }: TestAgent): Promise<string | undefined> {
  const { hold } = await call(client, client.getNode.bind(client), {});
  return hold?.held === true ? hold.message : undefined;
}

const twoVolumes = async (agent: TestAgent) =>
  await Promise.all([provision(agent), provision(agent, { qos: LIMITS })]);

/** A node with volumes, a stopped agent, and an empty database in place of its own. */
async function lostWith<T>(stack: AsyncDisposableStack, make: (agent: TestAgent) => Promise<T>) {
  const target = stack.use(await startTarget());
  const folder = stack.use(await temporaryFolder());
  const stateDir = join(folder.path, "state");
  const first = stack.use(await testDatabase());
  const volumes = await (async () => {
    await using agent = await start({ database: first, target, stateDir });
    await agent.ready();
    return await make(agent);
  })();
  const database = stack.use(await testDatabase());
  return { node: { database, target, stateDir }, volumes };
}

/** Without the owner mark, which is made anew where nothing says which process the target is. */
const exportsOf = async ({ spdk }: TestTarget) =>
  (await spdk.nvmfGetSubsystems()).filter(
    ({ subtype, nqn }) => subtype === "NVMe" && !nqn.includes(":owner:"),
  );

describe("a node whose database was lost", () => {
  it("is on hold: it changes nothing on the target and refuses changes, naming the cure", async () => {
    await using stack = new AsyncDisposableStack();
    const { node } = await lostWith(stack, twoVolumes);
    const before = await exportsOf(node.target);
    const agent = stack.use(await start(node));
    await until("it is on hold", async () => (await holdOf(agent)) !== undefined);
    expect(await holdOf(agent)).toContain("storage-node rebuild");
    expect(await refusal(provision(agent))).toMatchObject({ code: 9, reason: "ON_HOLD" });
    const { ready } = await call(agent.client, agent.client.getHealth.bind(agent.client), {});
    expect(ready).toBe(false);
    expect(await exportsOf(node.target)).toEqual(before);
    expect(await node.target.spdk.bdevLvolGetLvols()).toHaveLength(2);
  });

  it("gets its rows back from the disks: a dry run prints them, --apply writes them", async () => {
    await using stack = new AsyncDisposableStack();
    const { node, volumes } = await lostWith(stack, twoVolumes);
    const agent = stack.use(await start(node));
    await until("it is on hold", async () => (await holdOf(agent)) !== undefined);

    const dry = await rebuild(node);
    expect(dry.code).toBe(0);
    for (const lvol of volumes) {
      expect(dry.output).toContain(idOf(lvol));
      expect(dry.output).toContain(lvol.status?.nqn);
    }
    expect(dry.output).toContain("nothing was written");
    expect(await holdOf(agent)).toBeDefined();

    const before = await exportsOf(node.target);
    expect(await rebuild(node, "--apply")).toMatchObject({ code: 0 });
    await until("the hold ends", async () => (await holdOf(agent)) === undefined);
    await agent.ready();
    for (const lvol of volumes) {
      const rebuilt = await getLvol(agent, idOf(lvol));
      expect(rebuilt.status).toMatchObject({
        lvolUuid: lvol.status?.lvolUuid,
        nqn: lvol.status?.nqn,
        sizeBytes: lvol.status?.sizeBytes,
        diskId: lvol.status?.diskId,
        qos: lvol.status?.qos,
      });
      expect(rebuilt.spec?.qos).toEqual(lvol.spec?.qos);
      const exported = rebuilt.status?.conditions.find(({ type }) => type === "Exported");
      expect(exported).toMatchObject({ status: "CONDITION_STATUS_FALSE", reason: "UNCONFIRMED" });
    }
    expect(await exportsOf(node.target)).toEqual(before);
  });

  it("adjusts the hosts of a rebuilt volume after AllowHost, and deletes one on request", async () => {
    await using stack = new AsyncDisposableStack();
    const { node, volumes } = await lostWith(stack, twoVolumes);
    expect(await rebuild(node, "--apply")).toMatchObject({ code: 0 });
    const agent = stack.use(await start(node));
    await agent.ready();
    const [one = "", other = ""] = volumes.map(idOf);
    const host = "nqn.2014-08.org.nvmexpress:uuid:7c5d1e9a-0001-4000-8000-000000000002";
    await call(agent.client, agent.client.allowHost.bind(agent.client), {
      lvolId: one,
      hostNqn: host,
      waitTimeout: { seconds: 30n, nanos: 0 },
    });
    expect(stateOf(await getLvol(agent, one))).toBe("LVOL_STATE_UP");
    const hosts = new Map(
      (await exportsOf(node.target)).map(({ nqn, hosts: allowed }) => [nqn, allowed]),
    );
    expect(hosts.get(volumes[0]?.status?.nqn ?? "")).toEqual([host]);
    expect(hosts.get(volumes[1]?.status?.nqn ?? "")).toEqual([HOST]);
    expect(await remove(agent, other)).toEqual({ done: true });
    expect(await node.target.spdk.bdevLvolGetLvols()).toHaveLength(1);
  });

  it("gets snapshots and clones back, and knows what stands on what", async () => {
    await using stack = new AsyncDisposableStack();
    const { node, volumes } = await lostWith(stack, async (agent) => {
      const source = await provision(agent);
      const first = await takeSnapshot(agent, idOf(source));
      const second = await takeSnapshot(agent, idOf(source));
      const id = snapshotIdOf(first);
      const clone = await provision(agent, { sourceSnapshotId: id });
      return { source, clone, first, second };
    });
    const { source, clone, first, second } = volumes;
    expect(await rebuild(node, "--apply")).toMatchObject({ code: 0 });
    const agent = stack.use(await start(node));
    await agent.ready();
    const [firstId, secondId] = [snapshotIdOf(first), snapshotIdOf(second)];
    for (const snapshot of [first, second]) {
      const rebuilt = await getSnapshot(agent, snapshotIdOf(snapshot));
      expect(rebuilt.spec?.sourceLvolId).toBe("");
      const { lvolUuid, sizeBytes } = snapshot.status ?? {};
      expect(rebuilt.status).toMatchObject({ state: "SNAPSHOT_STATE_UP", lvolUuid, sizeBytes });
    }
    const blockers = [idOf(clone), secondId].toSorted().join(",");
    const refused = await refusal(deleteSnapshot(agent, firstId));
    expect(refused).toMatchObject({ reason: "HAS_CLONES", metadata: { clones: blockers } });
    // From the top down: nothing overlaps, and nothing is left.
    expect(await deleteSnapshot(agent, secondId)).toEqual({ done: true });
    await Promise.all([remove(agent, idOf(source)), remove(agent, idOf(clone))]);
    expect(await deleteSnapshot(agent, firstId)).toEqual({ done: true });
    expect(await node.target.spdk.bdevLvolGetLvols()).toEqual([]);
  });

  it("refuses new volumes on a rebuilt store until its free space is zeroed", async () => {
    await using stack = new AsyncDisposableStack();
    const { node, volumes } = await lostWith(stack, twoVolumes);
    expect(await rebuild(node, "--apply")).toMatchObject({ code: 0 });
    const agent = stack.use(await start(node));
    await agent.ready();
    const diskId = volumes[0]?.status?.diskId ?? "";
    expect(await refusal(provision(agent, { diskId }))).toMatchObject({
      code: 9,
      reason: "FREE_SPACE_NOT_ZEROED",
    });
    const { disk } = await call(agent.client, agent.client.zeroFreeSpace.bind(agent.client), {
      diskId,
      waitTimeout: { seconds: 60n, nanos: 0 },
    });
    expect(disk?.status?.lvstore?.freeSpace).toBe("FREE_SPACE_ZEROED");
    expect(stateOf(await provision(agent, { diskId }))).toBe("LVOL_STATE_UP");
    const names = (await node.target.spdk.bdevLvolGetLvols()).map(({ name }) => name);
    expect(names).toHaveLength(3);
    expect(names).not.toContain("zero-free-space");
  });

  it("attaches disks that the target does not have only with --attach", async () => {
    await using stack = new AsyncDisposableStack();
    const { node, volumes } = await lostWith(stack, twoVolumes);
    await node.target.restart();
    const without = await rebuild(node);
    expect(without.output).not.toContain(volumes[0]?.meta?.id);
    const { output, code } = await rebuild(node, "--attach", "--apply");
    expect({ code, volumes: output.match(/^volume /gm)?.length }).toEqual({ code: 0, volumes: 2 });
  });
});

describe("a node whose database is older than its own state file", () => {
  it("is on hold until an operator runs storage-node rebuild --apply", async () => {
    await using stack = new AsyncDisposableStack();
    const target = stack.use(await startTarget());
    const folder = stack.use(await temporaryFolder());
    const node = { target, stateDir: join(folder.path, "state") };
    const database = stack.use(await testDatabase());
    const [old, young] = await (async () => {
      await using agent = await start({ ...node, database });
      await agent.ready();
      const made = await provision(agent);
      return [made, await provision(agent)];
    })();
    // Same state as after restoring an old backup: the newest volume is missing, the revision is
    // older.
    await database.query(`delete from lvol where id = '${idOf(young)}'`);
    await database.query(`update node set revision = revision - 3, lease_epoch = 1`);
    const agent = stack.use(await start({ ...node, database }));
    await until("it is on hold", async () => (await holdOf(agent)) !== undefined);
    expect(await holdOf(agent)).toContain("behind");
    await until("the rows are read and served", async () => {
      // The hold is reported before the rows are read.
      const answer = await getLvol(agent, idOf(old)).catch(() => undefined);
      return answer !== undefined && stateOf(answer) === "LVOL_STATE_UP";
    });
    expect(await rebuild({ ...node, database }, "--apply")).toMatchObject({ code: 0 });
    await until("the hold ends", async () => (await holdOf(agent)) === undefined);
    expect((await getLvol(agent, idOf(young))).status?.lvolUuid).toBe(young.status?.lvolUuid);
  });
});

describe("storage-node rebuild", () => {
  it("refuses to write while an agent that is not on hold leads the node", async () => {
    await using stack = new AsyncDisposableStack();
    const target = stack.use(await startTarget());
    const folder = stack.use(await temporaryFolder());
    const database = stack.use(await testDatabase());
    const node = { target, database, stateDir: join(folder.path, "state") };
    const agent = stack.use(await start(node));
    await agent.ready();
    const lvol = await provision(agent);
    const { code, output } = await rebuild(node, "--apply");
    expect(code).toBe(1);
    expect(output).toContain("leads this node");
    expect(stateOf(await getLvol(agent, idOf(lvol)))).toBe("LVOL_STATE_UP");
  });

  it("gives no row to the lvol of a deleted volume that came back", async () => {
    await using stack = new AsyncDisposableStack();
    const target = stack.use(await startTarget());
    const folder = stack.use(await temporaryFolder());
    const database = stack.use(await testDatabase());
    const node = { target, database, stateDir: join(folder.path, "state") };
    {
      await using agent = await start(node);
      await agent.ready();
      await provision(agent);
    }
    // As compaction leaves it.
    await database.query(`with old as (delete from lvol returning id, disk_id, lvol_uuid)
      insert into tombstone (id, disk_id, lvol_uuid) select id, disk_id, lvol_uuid from old`);
    const { output } = await rebuild(node, "--apply");
    expect(output).toMatch(/left +lvol .*: belongs to a deleted volume/);
    expect(await database.query("select id from lvol")).toEqual([]);
  });

  it.skipIf(REAL_SOCKET !== undefined)(
    "lists lvols that it ignores because they are not named by a volume id",
    async () => {
      await using stack = new AsyncDisposableStack();
      const { node } = await lostWith(stack, twoVolumes);
      const [store] = await node.target.spdk.bdevLvolGetLvstores();
      await node.target.spdk.bdevLvolCreate({
        lvsUuid: store?.uuid ?? "",
        lvolName: "foreign-lvol",
        sizeBytes: 4n * 1024n * 1024n,
        thin: true,
        clearMethod: "write_zeroes",
      });
      const { output } = await rebuild(node);
      expect(output).toMatch(
        /left +lvol .*foreign-lvol: is an orphan: its name is not a volume id/,
      );
    },
  );
});
