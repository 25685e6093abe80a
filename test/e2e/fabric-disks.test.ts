// Disks on a fabric: several namespaces behind one controller.
import { writeFile } from "node:fs/promises";
import { describe, expect, it } from "vitest";
import { call, startAgent, until, type TestAgent } from "../support/agent.ts";
import { testDatabase } from "../support/database.ts";
import { diskIdOf, diskOf } from "../support/drives.ts";
import { REAL_SOCKET, simulatedTarget, type TestTarget } from "../support/target.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { getLvol, idOf, provision, stateOf, WAIT } from "../support/volumes.ts";

const GIB = 1024n ** 3n;
const ALL = { pageSize: 0, pageToken: "", showDeleted: false, diskId: "" };
const AT = {
  trtype: "TCP",
  traddr: "127.0.0.1",
  trsvcid: "9000",
  subnqn: "nqn.2026-11.io.test:two",
} as const;
const DISK = { serial: "F", model: "M", block_size: 4096, num_blocks: 1_048_576, ...AT };

const namespace = (nsid: number) => ({ ...DISK, id: `F${nsid}`, nsid });
const entry = (nsid: number) => ({ serial: "F", nsid, ...AT, format: true });

/** What STORAGE_NODE_FABRIC_DISKS names. */
async function configure(target: TestTarget, ...nsids: readonly number[]): Promise<void> {
  await writeFile(target.fabricDisks, JSON.stringify(nsids.map(entry)));
}

async function settled(agent: TestAgent, nsid: number, state: string): Promise<void> {
  await until(`the disk is ${state}`, async () => {
    return (await diskOf(agent, "F", nsid))?.state === state;
  });
}

async function release({ client }: TestAgent, serial: string): Promise<void> {
  const diskId = await diskIdOf({ client }, serial);
  const asked = { diskId, serial, force: true, reason: "it moves", waitTimeout: WAIT };
  await call(client, client.releaseDisk.bind(client), asked);
}

async function attachesAndDetaches(target: TestTarget): Promise<readonly [number, number]> {
  await using control = await target.control();
  const counts = await control.counts();
  const of = (method: string) => counts[`bdev_nvme_${method}_controller`] ?? 0;
  return [of("attach"), of("detach")];
}

async function discoverError({ client }: TestAgent): Promise<string | undefined> {
  const { loops } = await call(client, client.getNode.bind(client), {});
  return loops.find(({ name }) => name === "disk-discover")?.lastError;
}

describe.skipIf(REAL_SOCKET !== undefined)("a namespace of a fabric that is not there", () => {
  it("is named, and its sibling is taken", async () => {
    await using database = await testDatabase();
    await using folder = await temporaryFolder();
    const drives = { root: folder.path, disks: [namespace(2)] };
    await using target = await simulatedTarget({ drives });
    await configure(target, 1, 2);
    await using agent = await startAgent({ url: database.url, target });
    await until("the node is ready", () => agent.node.agent.ready());
    await settled(agent, 2, "DISK_STATE_UP");
    const error = "fabric disk F/1: its controller has no namespace 1";
    await until("it is named", async () => (await discoverError(agent)) === error);
    expect((await attachesAndDetaches(target))[1]).toBe(0);
  });

  it("costs the hosts of its sibling nothing", async () => {
    await using database = await testDatabase();
    await using folder = await temporaryFolder();
    const drives = { root: folder.path, disks: [namespace(2)] };
    await using target = await simulatedTarget({ drives });
    await configure(target, 2);
    let made: Awaited<ReturnType<typeof provision>>;
    {
      await using agent = await startAgent({ url: database.url, target });
      await agent.ready();
      made = await provision(agent, { sizeBytes: GIB / 16n });
    }
    await configure(target, 1, 2);
    await using agent = await startAgent({ url: database.url, target });
    for (let restarts = 0; restarts < 2; restarts += 1) {
      await target.restart();
      await until("the volume is UP, and the missing one was asked for twice", async () => {
        const [attaches] = await attachesAndDetaches(target);
        return attaches >= 3 && stateOf(await getLvol(agent, idOf(made))) === "LVOL_STATE_UP";
      });
      expect((await attachesAndDetaches(target))[1]).toBe(0);
    }
  });
});

describe.skipIf(REAL_SOCKET !== undefined)(
  "a disk on a fabric that two nodes are configured for",
  () => {
    const OTHER = { STORAGE_NODE_ID: "node-2" };
    const ELSEWHERE = "fabric disk F/1: its row is that of another node";

    /** Until it says whose the disk is, or attaches it: what the target was asked for. */
    async function untilSaid(agent: TestAgent, target: TestTarget) {
      await until("it is said, or attached", async () => {
        const [attaches] = await attachesAndDetaches(target);
        return attaches > 0 || (await discoverError(agent))?.startsWith(ELSEWHERE) === true;
      });
      return await attachesAndDetaches(target);
    }

    /** Two nodes of one fleet that reach the same disk. */
    async function nodes() {
      const stack = new AsyncDisposableStack();
      const database = stack.use(await testDatabase());
      const folder = stack.use(await temporaryFolder());
      const drives = { root: folder.path, disks: [namespace(1)] };
      const targets = [
        stack.use(await simulatedTarget({ drives })),
        stack.use(await simulatedTarget({ drives })),
      ] as const;
      for (const target of targets) await configure(target, 1);
      const start = async (target: TestTarget, env = {}) => {
        const timing = { leaseTermMs: 1_500 };
        const agent = stack.use(await startAgent({ url: database.url, target, timing }, env));
        await until("the node is ready", () => agent.node.agent.ready());
        return agent;
      };
      return { targets, start, [Symbol.asyncDispose]: () => stack.disposeAsync() };
    }

    it("is not attached by the second one while the first one has it, which the second one says", async () => {
      await using both = await nodes();
      const [one, two] = both.targets;
      const first = await both.start(one);
      await first.ready();
      const second = await both.start(two, OTHER);
      expect(await untilSaid(second, two)).toEqual([0, 0]);
      expect(await diskOf(second, "F")).toBeUndefined();
    });

    it("goes to the second one once it is released, and is not attached by the first one any more", async () => {
      await using both = await nodes();
      const [one, two] = both.targets;
      const first = await both.start(one);
      await first.ready();
      const made = await provision(first, { sizeBytes: GIB / 16n });
      await release(first, "F");
      const second = await both.start(two, OTHER);
      await until("the second one has the volume", async () => {
        const { lvols } = await call(
          second.client,
          second.client.listLvols.bind(second.client),
          ALL,
        );
        return lvols.some(({ meta }) => meta?.id === idOf(made));
      });
      await until("the first one has it no more", async () => {
        return (await diskOf(first, "F")) === undefined;
      });
      await one.restart();
      expect(await untilSaid(first, one)).toEqual([0, 0]);
    });
  },
);
