// A target that dies while a cluster is copied on write: the copy is on the disk and no metadata says whose
// it is, so a tenant's data lies in a free cluster (docs/architecture.md#r7-tenants-and-free-space).
import { describe, expect, it } from "vitest";
import { until } from "../support/agent.ts";
import { crashScenario, readBack, tag, type CrashScenario } from "../support/crash-scenario.ts";
import { soiledClusters } from "../support/free-space.ts";
import { deleteSnapshot, snapshotIdOf, takeSnapshot } from "../support/snapshots.ts";
import { idOf, provision, remove } from "../support/volumes.ts";

const SMALL = { sizeBytes: 16n * 1_048_576n };

/** A host writes to a volume that has a snapshot, and the target stops once the cluster is copied. */
async function copyCutOff(scenario: CrashScenario, lvolUuid: string): Promise<void> {
  const { gate } = scenario.target.engine();
  gate.stopAt({ when: "midway", method: "host_write", nth: 1 });
  expect(() => tag(scenario, lvolUuid, 8)).toThrow("stopped");
  await scenario.target.restart();
}

async function onceZeroed(scenario: CrashScenario): Promise<void> {
  const { rows } = scenario.agent().node.agent;
  await until("the free space is zeroed", () =>
    [...rows.disks()].every(({ freeSpace }) => {
      return freeSpace === "ZEROED";
    }),
  );
}

describe("a cluster that was being copied when the target died", () => {
  it("is shown to no other tenant", async () => {
    await using scenario = await crashScenario();
    const agent = await scenario.start();
    await agent.ready();
    const used = await provision(agent, SMALL);
    const uuid = used.status?.lvolUuid ?? "";
    tag(scenario, uuid, 7, 8_192);
    const snapshot = await takeSnapshot(agent, idOf(used));
    await copyCutOff(scenario, uuid);
    // What the restart has left is not handed out: it is refused, or zeroed before.
    const next = await provisioned(scenario);
    tag(scenario, next, 9);
    expect(readBack(scenario, next)).toEqual({ written: [9], rest: [0] });
    await onceZeroed(scenario);
    expect(soiledClusters(scenario)).toBe(0);
    expect(readBack(scenario, uuid)?.written).toEqual([7]);
    await deleteSnapshot(agent, snapshotIdOf(snapshot));
    await remove(agent, idOf(used));
  });

  it("is zeroed as well if the agent dies with the target", async () => {
    await using scenario = await crashScenario();
    const agent = await scenario.start();
    await agent.ready();
    const used = await provision(agent, SMALL);
    const uuid = used.status?.lvolUuid ?? "";
    tag(scenario, uuid, 7, 8_192);
    await takeSnapshot(agent, idOf(used));
    await scenario.killAgent();
    await copyCutOff(scenario, uuid);
    await (await scenario.start()).ready();
    const next = await provisioned(scenario);
    tag(scenario, next, 9);
    expect(readBack(scenario, next)).toEqual({ written: [9], rest: [0] });
    await onceZeroed(scenario);
    expect(soiledClusters(scenario)).toBe(0);
  });

  it("costs a restart nothing where no volume has a snapshot", async () => {
    await using scenario = await crashScenario();
    const agent = await scenario.start();
    await agent.ready();
    const used = await provision(agent, SMALL);
    tag(scenario, used.status?.lvolUuid ?? "", 7);
    const seen = new Set<string>();
    const { rows } = agent.node.agent;
    rows.subscribe(() => {
      for (const { freeSpace } of rows.disks()) seen.add(freeSpace);
    });
    await scenario.target.restart();
    await agent.ready();
    await provision(agent, SMALL);
    expect([...seen]).toEqual(["ZEROED"]);
  });
});

/** The lvol of a new volume; asked for again while the disk takes none. */
async function provisioned(scenario: CrashScenario): Promise<string> {
  let uuid: string | undefined;
  await until("a new volume is UP", async () => {
    const lvol = await provision(scenario.agent(), SMALL).catch(() => undefined);
    uuid = lvol?.status?.lvolUuid;
    return (uuid ?? "") !== "";
  });
  return uuid ?? "";
}
