// How volumes and snapshots are brought into each of their states (state-world.ts).
import { randomUUID } from "node:crypto";
import { until, type TestAgent } from "./agent.ts";
import { BusyHost } from "./busy-host.ts";
import { deleteSnapshot, getSnapshot, takeSnapshot } from "./snapshots.ts";
import { SIZE, type SnapshotSubject } from "./state-lines.ts";
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
import { getLvol, HOST, idOf, provision, remove, resize, stateOf } from "./volumes.ts";

const VOLUME = { sizeBytes: SIZE };
const NO_WAIT = { wait: false };

const ids = (count: number) => Array.from({ length: count }, () => randomUUID());

async function untilLvols({ agent }: World, volumes: readonly string[], state: string) {
  await until(`the volumes are ${state}`, async () => {
    const lvols = await Promise.all(volumes.map((id) => getLvol(agent(), id)));
    return lvols.every((lvol) => stateOf(lvol) === `LVOL_STATE_${state}`);
  });
}

async function upVolumes(world: World, count: number): Promise<readonly string[]> {
  const agent = await started(world);
  return (await Promise.all(ids(count).map((id) => provision(agent, VOLUME, { id })))).map(idOf);
}

async function loseLvol({ spdk, agent }: World, id: string): Promise<void> {
  const lvsUuid = diskOf(agent()).lvsUuid ?? "";
  const { lvolUuid: name = "", nqn = "" } = (await getLvol(agent(), id)).status ?? {};
  await spdk.nvmfSubsystemRemoveNs({ nqn, nsid: 1 });
  await spdk.bdevLvolDelete({ lvsUuid, name });
}

/** Ids that were never used. */
async function noVolumes(world: World, count: number): Promise<readonly string[]> {
  await started(world);
  return ids(count);
}

async function connectHost({ agent, scenario, stack }: World, id: string): Promise<void> {
  const nqn = (await getLvol(agent(), id)).status?.nqn ?? "";
  const { fabric } = scenario.target;
  stack.use(await BusyHost.connect({ fabric, host: HOST, nqn }));
}

export const VOLUME_STATES: States<string> = {
  absent: { bring: noVolumes },
  "absent, target down": after(noVolumes, targetDown),
  creating: {
    bring: async (world, count) => {
      const agent = await started(world);
      hold(world, "bdev_lvol_create");
      const wanted = ids(count);
      await Promise.all(wanted.map((id) => provision(agent, VOLUME, { id, ...NO_WAIT })));
      return wanted;
    },
  },
  UP: { bring: upVolumes },
  "UP, host connected": {
    bring: async (world, count) => {
      const volumes = await upVolumes(world, count);
      await Promise.all(volumes.map((id) => connectHost(world, id)));
      return volumes;
    },
  },
  resizing: {
    bring: async (world, count) => {
      const volumes = await upVolumes(world, count);
      hold(world, "bdev_lvol_resize");
      await Promise.all(volumes.map((id) => resize(world.agent(), id, 2n * SIZE, NO_WAIT)));
      await untilLvols(world, volumes, "RESIZING");
      return volumes;
    },
  },
  deleting: {
    bring: async (world, count) => {
      const volumes = await upVolumes(world, count);
      hold(world, "bdev_lvol_delete");
      await Promise.all(volumes.map((id) => remove(world.agent(), id, NO_WAIT)));
      return volumes;
    },
  },
  deleted: {
    bring: async (world, count) => {
      const volumes = await upVolumes(world, count);
      await Promise.all(volumes.map((id) => remove(world.agent(), id)));
      return volumes;
    },
  },
  "failed, name taken": {
    deaf: true,
    bring: async (world, count) => {
      const agent = await started(world);
      const taken = ids(count);
      await makeLvols(world, taken);
      await Promise.all(taken.map((id) => provision(agent, VOLUME, { id })));
      await untilLvols(world, taken, "FAILED");
      return taken;
    },
  },
  "data missing": {
    bring: async (world, count) => {
      const volumes = await upVolumes(world, count);
      await Promise.all(volumes.map((id) => loseLvol(world, id)));
      await untilLvols(world, volumes, "DATA_MISSING");
      return volumes;
    },
  },
  "disk missing": after(upVolumes, diskMissing, (world, volumes) =>
    untilLvols(world, volumes, "DEGRADED"),
  ),
  "disk failing": after(upVolumes, diskFails, (world, volumes) => untilLvols(world, volumes, "UP")),
  "target down": after(upVolumes, targetDown, (world, volumes) =>
    untilLvols(world, volumes, "DEGRADED"),
  ),
  "database down": after(upVolumes, databaseDown),
  hold: after(upVolumes, onHold, (world, volumes) => untilLvols(world, volumes, "UP")),
};

async function untilSnapshots(
  { agent }: World,
  snapshots: readonly SnapshotSubject[],
  state: string,
) {
  await until(`the snapshots are ${state}`, async () => {
    const found = await Promise.all(snapshots.map(({ id }) => getSnapshot(agent(), id)));
    return found.every(({ status }) => status?.state === `SNAPSHOT_STATE_${state}`);
  });
}

/** Volumes that are UP, and an id for a snapshot of each. */
async function sources(world: World, count: number): Promise<readonly SnapshotSubject[]> {
  return (await upVolumes(world, count)).map((sourceId) => ({ id: randomUUID(), sourceId }));
}

async function take(agent: TestAgent, wanted: readonly SnapshotSubject[], how = { wait: true }) {
  await Promise.all(
    wanted.map(({ id, sourceId }) => takeSnapshot(agent, sourceId, { id, ...how })),
  );
}

async function upSnapshots(world: World, count: number): Promise<readonly SnapshotSubject[]> {
  const wanted = await sources(world, count);
  await take(world.agent(), wanted);
  await untilSnapshots(world, wanted, "UP");
  return wanted;
}

export const SNAPSHOT_STATES: States<SnapshotSubject> = {
  absent: { bring: sources },
  "absent, target down": after(sources, targetDown),
  "absent, disk failing": after(sources, diskFails),
  creating: {
    bring: async (world, count) => {
      const wanted = await sources(world, count);
      hold(world, "bdev_lvol_snapshot");
      await take(world.agent(), wanted, NO_WAIT);
      return wanted;
    },
  },
  UP: { bring: upSnapshots },
  "UP, two clones": {
    bring: async (world, count) => {
      const taken = await upSnapshots(world, count);
      const agent = world.agent();
      const clone = (sourceSnapshotId: string) => provision(agent, { ...VOLUME, sourceSnapshotId });
      await Promise.all(taken.map(({ id }) => clone(id)));
      return taken;
    },
  },
  deleting: {
    bring: async (world, count) => {
      const taken = await upSnapshots(world, count);
      hold(world, "bdev_lvol_delete");
      await Promise.all(taken.map(({ id }) => deleteSnapshot(world.agent(), id, NO_WAIT)));
      return taken;
    },
  },
  deleted: {
    bring: async (world, count) => {
      const taken = await upSnapshots(world, count);
      await Promise.all(taken.map(({ id }) => deleteSnapshot(world.agent(), id)));
      return taken;
    },
  },
  "failed, name taken": {
    deaf: true,
    bring: async (world, count) => {
      const wanted = await sources(world, count);
      const names = wanted.map(({ id }) => id);
      await makeLvols(world, names);
      await take(world.agent(), wanted);
      await untilSnapshots(world, wanted, "FAILED");
      return wanted;
    },
  },
  "data missing": {
    bring: async (world, count) => {
      const taken = await upSnapshots(world, count);
      const lvsUuid = diskOf(world.agent()).lvsUuid ?? "";
      for (const { id } of taken) {
        const name = (await getSnapshot(world.agent(), id)).status?.lvolUuid ?? "";
        await world.spdk.bdevLvolDelete({ lvsUuid, name });
      }
      await untilSnapshots(world, taken, "DATA_MISSING");
      return taken;
    },
  },
  "disk missing": after(upSnapshots, diskMissing, (world, taken) =>
    untilSnapshots(world, taken, "DEGRADED"),
  ),
  "disk failing": after(upSnapshots, diskFails, (world, taken) =>
    untilSnapshots(world, taken, "UP"),
  ),
  "target down": after(upSnapshots, targetDown, (world, taken) =>
    untilSnapshots(world, taken, "DEGRADED"),
  ),
  "database down": after(upSnapshots, databaseDown),
  hold: after(upSnapshots, onHold, (world, taken) => untilSnapshots(world, taken, "UP")),
};
