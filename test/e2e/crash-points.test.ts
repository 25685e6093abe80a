// The agent, the target or both are killed at every request and at every commit of two histories: the life
// of three volumes, and that of a clone family. A host uses one volume all the time, and must not notice
// more than a pause.
import { Provisioning } from "../../src/gen/storagenode/v1/lvol.ts";
import type { DiskRow } from "../../src/model/disk.ts";
import { uuidV5 } from "../../src/model/identity.ts";
import { describe, expect, it } from "vitest";
import { call, until, type TestAgent } from "../support/agent.ts";
import { BusyHost } from "../support/busy-host.ts";
import { atCommit, atRequest, counted, each, pointsOf, sampled } from "../support/crash-points.ts";
import type { History, Setup } from "../support/crash-points.ts";
import { exactly, onTarget, readBack, tag, type CrashScenario } from "../support/crash-scenario.ts";
import { deleteSnapshot, takeSnapshot } from "../support/snapshots.ts";
import {
  getLvol,
  HOST,
  idOf,
  provision,
  remove,
  resize,
  update,
  WAIT,
  zeroFreeSpace,
} from "../support/volumes.ts";

const NAMESPACE = "5a3c9c52-6c7e-4a53-9f0e-2f6a3c1d4e5f";
const idsOf = (...names: readonly string[]) => names.map((name) => uuidV5(NAMESPACE, name));
const SIZE = 64n * 1024n * 1024n;
const SMALL = { sizeBytes: SIZE };
const GROWN = 2n * SIZE;
const LIMITS = { rwIops: 5_000n, rwMibPerSecond: 0n, readMibPerSecond: 0n, writeMibPerSecond: 9n };

type WithHost = Setup & {
  /** The host of the kept volume, which connects when first asked for. */
  readonly host: (nqn: string) => Promise<BusyHost>;
};

function withHost(scenario: CrashScenario): WithHost {
  const { fabric } = scenario.target;
  let host: Promise<BusyHost> | undefined;
  return {
    scenario,
    host: (nqn) => (host ??= BusyHost.connect({ fabric, host: HOST, nqn })),
    [Symbol.asyncDispose]: async () => {
      await (await host)?.[Symbol.asyncDispose]();
      await scenario[Symbol.asyncDispose]();
    },
  };
}

const retired = ({ node }: TestAgent, id: string) => {
  const { rows } = node.agent;
  return (rows.lvol(id) ?? rows.snapshots.get(id))?.deleteRequestedTime !== undefined;
};

async function hostSawNoHarm({ host }: WithHost, agent: TestAgent, id: string): Promise<void> {
  const { nqn = "" } = agent.node.agent.rows.lvol(id) ?? {};
  expect(await (await host(nqn)).stop()).toEqual([]);
}

async function hostSeesItGrown(
  { scenario, host }: WithHost,
  agent: TestAgent,
  id: string,
): Promise<void> {
  const { nqn = "", lvolUuid = "" } = agent.node.agent.rows.lvol(id) ?? {};
  expect(scenario.target.state().lvol(lvolUuid)?.numBlocks).toBe(Number(GROWN / 4_096n));
  await (await host(nqn)).seesBytes(Number(GROWN));
}

const [KEPT = "", ...GONE] = idsOf("kept", "gone", "gone too");
const byteOf = (id: string) => [KEPT, ...GONE].indexOf(id) + 1;

/**
 * Creates three volumes on a new store, writes into them, and deletes two while a host uses the third, which
 * is grown and limited.
 */
const VOLUMES: History<WithHost> = {
  setUp: withHost,
  async run({ scenario, host }, agent) {
    await agent.ready();
    const wanted = [KEPT, ...GONE].filter((id) => !retired(agent, id));
    const made = await Promise.all(wanted.map((id) => provision(agent, SMALL, { id })));
    for (const lvol of made) tag(scenario, lvol.status?.lvolUuid ?? "", byteOf(idOf(lvol)));
    const kept = made.find((lvol) => idOf(lvol) === KEPT);
    await (await host(kept?.status?.nqn ?? "")).writesAgain();
    await Promise.all([resize(agent, KEPT, GROWN), update(agent, KEPT, { qos: LIMITS })]);
    await Promise.all(GONE.map((id) => remove(agent, id)));
  },
  async check(setup, agent) {
    // Neither data of the deleted volumes nor old bytes of the disk are readable in the kept one.
    const { lvolUuid = "" } = agent.node.agent.rows.lvol(KEPT) ?? {};
    expect(readBack(setup.scenario, lvolUuid)).toEqual({ written: [byteOf(KEPT)], rest: [0] });
    const limits = setup.scenario.target.state().lvol(lvolUuid)?.limits;
    expect(limits).toMatchObject({ rwIos: 5_000, rwMbytes: 0, writeMbytes: 9 });
    await hostSeesItGrown(setup, agent, KEPT);
    await hostSawNoHarm(setup, agent, KEPT);
  },
  oneOf: 8,
  expected: exactly([KEPT]),
};

const [SOURCE = "", FIRST = "", SECOND = "", CLONE = "", THICK = ""] = idsOf(
  "source",
  "first snapshot",
  "second snapshot",
  "clone",
  "thick clone",
);

const cloneThin = (agent: TestAgent) =>
  provision(agent, { sourceSnapshotId: FIRST, sizeBytes: 2n * SIZE }, { id: CLONE });

async function cloneThick(agent: TestAgent): Promise<void> {
  const provisioning = Provisioning.PROVISIONING_THICK;
  const spec = { sourceSnapshotId: FIRST, sizeBytes: SIZE, provisioning };
  await provision(agent, spec, { id: THICK, wait: false });
  await until("the thick clone is UP", async () => {
    // A target that dies while it inflates leaves free space in doubt, for which the clone waits.
    await zeroFreeSpace(agent);
    return (await getLvol(agent, THICK)).status?.state === "LVOL_STATE_UP";
  });
}

/**
 * A volume that a host uses and that grows, two snapshots of it, a larger clone and a thick one; a snapshot
 * goes again.
 */
const FAMILY: History<WithHost> = {
  setUp: withHost,
  async run({ scenario, host }, agent) {
    await agent.ready();
    const source = await provision(agent, SMALL, { id: SOURCE });
    const uuid = source.status?.lvolUuid ?? "";
    await (await host(source.status?.nqn ?? "")).writesAgain();
    if (!retired(agent, FIRST)) {
      if (agent.node.agent.rows.snapshots.get(FIRST) === undefined) {
        await until("1 is written", () => tag(scenario, uuid, 1));
      }
      await takeSnapshot(agent, SOURCE, { id: FIRST });
      const grown = resize(agent, SOURCE, GROWN);
      await Promise.all([cloneThin(agent), cloneThick(agent), grown]);
    }
    if (agent.node.agent.rows.snapshots.get(SECOND) === undefined) {
      await until("2 is written", () => tag(scenario, uuid, 2));
    }
    await takeSnapshot(agent, SOURCE, { id: SECOND });
    await deleteSnapshot(agent, FIRST, { deferred: true, wait: false });
    // The thick one does not stand on it, but the other one and the second snapshot do.
    await remove(agent, CLONE);
    await deleteSnapshot(agent, FIRST);
  },
  async check(setup, agent) {
    const bytesOf = (id: string) => {
      const { rows } = setup.scenario.agent().node.agent;
      const uuid = (rows.lvol(id) ?? rows.snapshots.get(id))?.lvolUuid ?? "";
      return readBack(setup.scenario, uuid);
    };
    expect(bytesOf(SOURCE)).toEqual({ written: [2], rest: [0] });
    expect(bytesOf(SECOND)).toEqual({ written: [2], rest: [0] });
    expect(bytesOf(THICK)).toEqual({ written: [1], rest: [0] });
    await hostSeesItGrown(setup, agent, SOURCE);
    await hostSawNoHarm(setup, agent, SOURCE);
  },
  from: "bdev_lvol_snapshot",
  oneOf: 12,
  expected: {
    lvols: [SOURCE, SECOND, THICK].toSorted(),
    exported: [SOURCE, THICK].toSorted(),
    empty: [],
    crossed: [],
  },
};

const [MOVED = "", LEFT = ""] = idsOf("moved", "left");

async function released(
  agent: TestAgent,
  disk: { readonly diskId: string; readonly serial: string },
) {
  const { client } = agent;
  const asked = { ...disk, waitTimeout: WAIT };
  const forced = { ...asked, force: true, reason: "it moves" };
  await call(client, client.releaseDisk.bind(client), forced);
  if (!retired(agent, LEFT)) await remove(agent, LEFT);
  const unset = { evidenceFingerprint: "", address: "", discardZeroes: false };
  await call(client, client.admitDisk.bind(client), { ...asked, ...unset });
}

/** A disk is released with two volumes on it, of which one is deleted meanwhile, and taken again. */
const DISK: History<WithHost> = {
  setUp: withHost,
  async run({ scenario }, agent) {
    const { rows } = agent.node.agent;
    const isSettled = (disk: DiskRow) =>
      disk.wanted === "release" || agent.node.agent.diskReadiness(disk).ready;
    await until("its disks are UP, or leave", () => {
      const disks = [...rows.disks()];
      return agent.node.agent.ready() && disks.length > 0 && disks.every(isSettled);
    });
    // On a disk that leaves already, no volume comes up.
    const wait = [...rows.disks()].every(({ wanted }) => wanted === "take");
    const moved = await provision(agent, SMALL, { id: MOVED, wait });
    const { lvolUuid = "", diskId = "" } = moved.status ?? {};
    if (!retired(agent, LEFT)) await provision(agent, { ...SMALL, diskId }, { id: LEFT, wait });
    tag(scenario, lvolUuid, 3);
    await released(agent, { diskId, serial: rows.disk(diskId)?.serial ?? "" });
    await until("the other volume is UP", async () => {
      return (await getLvol(agent, MOVED)).status?.state === "LVOL_STATE_UP";
    });
    await until("what is left of the deleted one is deleted", () => {
      return onTarget(scenario).lvols.join() === MOVED;
    });
  },
  async check({ scenario }, agent) {
    const { lvolUuid = "" } = agent.node.agent.rows.lvol(MOVED) ?? {};
    expect(readBack(scenario, lvolUuid)).toEqual({ written: [3], rest: [0] });
    return await Promise.resolve();
  },
  from: "nvmf_subsystem_remove_ns",
  oneOf: 16,
  expected: exactly([MOVED]),
};

const upTo = (count: number) => Array.from({ length: count }, (_, index) => index + 1);

describe.concurrent.each([
  ["volumes", VOLUMES, 20, 5],
  ["a clone family", FAMILY, 15, 10],
  ["a disk that is released", DISK, 8, 8],
] as const)("a kill at any point of the life of %s", (_name, history, changes, commitsAtLeast) => {
  it.each(["agent", "target", "agent and target"] as const)(
    "of the %s, before each request and after each change, loses nothing and leaves no object",
    async (victim) => {
      const { methods } = await counted(history);
      const points = pointsOf(methods, history);
      expect(points.filter(({ when }) => when === "after").length).toBeGreaterThan(changes);
      await each(sampled(points, victim, history), (at) => atRequest(history, victim, at));
    },
    240_000,
  );

  it("of the agent, before and after each commit, loses nothing and leaves no object", async () => {
    const { commits } = await counted(history);
    expect(commits).toBeGreaterThan(commitsAtLeast);
    const points = upTo(commits).flatMap((nth) =>
      (["before", "after"] as const).map((when) => ({ when, nth })),
    );
    await each(sampled(points, "agent", history), ({ when, nth }) => atCommit(history, when, nth));
  }, 240_000);
});
