// How a disk, and the node, are brought into each of their states (state-world.ts).
import { randomUUID } from "node:crypto";
import { BY_HAND, call, until } from "./agent.ts";
import type { DiskSubject, NodeSubject } from "./state-lines.ts";
import {
  after,
  databaseDown,
  diskFails,
  diskMissing,
  diskOf,
  hold,
  makeLvols,
  onHold,
  started,
  targetDown,
  type States,
  type World,
} from "./state-world.ts";

/** The disk, for each line: they are ordered so that none changes what the next one finds. */
function sameDisk({ agent }: World, count: number): readonly DiskSubject[] {
  const { id, serial } = diskOf(agent());
  return Array.from({ length: count }, () => ({ id, serial }));
}

async function upDisk(world: World, count: number): Promise<readonly DiskSubject[]> {
  await started(world);
  return sameDisk(world, count);
}

async function untilDisk({ agent }: World, state: string): Promise<void> {
  await until(`the disk is ${state}`, () =>
    [...agent().node.agent.rows.disks()].some((disk) => disk.state === state),
  );
}

/** The disk gets an lvstore that is not of our fleet, before any agent runs. */
async function formatBySomebody({ spdk, scenario }: World): Promise<void> {
  const [disk] = scenario.target.state().disks;
  if (disk === undefined) throw new Error("no disk");
  const { trtype, traddr, trsvcid, subnqn } = disk.facts;
  const name = "somebody";
  const controller = { name, trtype, traddr, trsvcid, subnqn };
  const [bdevName = ""] = await spdk.bdevNvmeAttachController(controller);
  const store = { bdevName, lvsName: "lvs0", clusterBytes: 4n * 1024n ** 2n };
  await spdk.bdevLvolCreateLvstore({ ...store, clearMethod: "none" });
  await spdk.bdevNvmeDetachController(name);
}

export const DISK_STATES: States<DiskSubject> = {
  absent: {
    bring: async (world, count) => {
      await started(world);
      return Array.from({ length: count }, () => ({ id: randomUUID(), serial: "NONE" }));
    },
  },
  "not admitted": {
    options: { env: { STORAGE_NODE_DISK_POLICY: "manual" } },
    bring: async (world, count) => {
      await world.scenario.start();
      await untilDisk(world, "DISCOVERED");
      return sameDisk(world, count);
    },
  },
  claiming: {
    bring: async (world, count) => {
      hold(world, "bdev_lvol_create_lvstore");
      await world.scenario.start();
      await untilDisk(world, "CLAIMING");
      return sameDisk(world, count);
    },
  },
  foreign: {
    bring: async (world, count) => {
      await formatBySomebody(world);
      await world.scenario.start();
      await untilDisk(world, "FOREIGN");
      return sameDisk(world, count);
    },
  },
  UP: { bring: upDisk },
  cordoned: {
    bring: async (world, count) => {
      const disks = await upDisk(world, count);
      const { client } = world.agent();
      const request = { diskId: disks[0]?.id ?? "", reason: "worn out" };
      await call(client, client.cordon.bind(client), request);
      return disks;
    },
  },
  failing: after(upDisk, diskFails),
  "not zeroed": {
    options: { env: BY_HAND },
    bring: async (world, count) => {
      await started(world);
      await world.scenario.killAgent();
      await world.scenario.query(`update disk set free_space = 'UNKNOWN'`);
      return await upDisk(world, count);
    },
  },
  missing: after(upDisk, diskMissing),
  "target down": after(upDisk, targetDown),
  "database down": after(upDisk, databaseDown),
  hold: after(upDisk, onHold),
};

/** An orphan for each line, which the agent knows of. */
async function withOrphans(world: World, count: number): Promise<readonly NodeSubject[]> {
  const { node } = await started(world);
  const names = Array.from({ length: count }, (_, index) => `by-hand-${index}`);
  const uuids = await makeLvols(world, names);
  await until("the agent knows of them", () => node.agent.orphans.known().length === count);
  const store = diskOf(world.agent()).lvsName ?? "";
  return names.map((name, index) => ({ name: `${store}/${name}`, uuid: uuids[index] ?? "" }));
}

export const NODE_STATES: States<NodeSubject> = {
  ready: { bring: withOrphans },
  "never read its rows": {
    bring: async ({ scenario }, count) => {
      await scenario.start({ databaseAway: true });
      return Array.from({ length: count }, () => ({ name: "store/name", uuid: randomUUID() }));
    },
  },
  "target down": after(withOrphans, targetDown),
  "database down": after(withOrphans, databaseDown),
  hold: after(withOrphans, onHold),
};
