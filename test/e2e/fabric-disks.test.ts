// Disks on a fabric: several namespaces behind one controller.
import { writeFile } from "node:fs/promises";
import { describe, expect, it } from "vitest";
import { call, startAgent, until, type TestAgent } from "../support/agent.ts";
import { testDatabase } from "../support/database.ts";
import { diskOf } from "../support/drives.ts";
import { REAL_SOCKET, simulatedTarget, type TestTarget } from "../support/target.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { getLvol, idOf, provision, stateOf } from "../support/volumes.ts";

const GIB = 1024n ** 3n;
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
