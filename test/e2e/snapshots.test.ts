// Snapshots and clones end to end: what a scheduler asks for, and what hosts read.
import { randomUUID } from "node:crypto";
import { describe, expect, it } from "vitest";
import { Provisioning } from "../../src/gen/storagenode/v1/lvol.ts";
import { call, refusal, until, type TestAgent } from "../support/agent.ts";
import { BusyHost } from "../support/busy-host.ts";
import {
  crashScenario,
  exactly,
  onTarget,
  readBack,
  settled,
  tag,
} from "../support/crash-scenario.ts";
import { deleteSnapshot, getSnapshot, snapshotIdOf, takeSnapshot } from "../support/snapshots.ts";
import { getLvol, HOST, idOf, provision, remove, resize, stateOf } from "../support/volumes.ts";

const SIZE = 64n * 1024n ** 2n;
const SMALL = { sizeBytes: SIZE };
const THICK = Provisioning.PROVISIONING_THICK;

async function started() {
  const scenario = await crashScenario();
  const agent = await scenario.start();
  await agent.ready();
  return { scenario, agent, [Symbol.asyncDispose]: () => scenario[Symbol.asyncDispose]() };
}

const cloneOf = (snapshotId: string, sizeBytes = SIZE) => ({
  sizeBytes,
  sourceSnapshotId: snapshotId,
});
const uuidOf = async (agent: TestAgent, id: string) =>
  (await getLvol(agent, id)).status?.lvolUuid ?? "";

describe("a snapshot of a volume that is in use", () => {
  it("is UP, has the data of that moment, and its host has noticed nothing", async () => {
    await using node = await started();
    const { scenario, agent } = node;
    const lvol = await provision(agent, SMALL);
    const [id, uuid] = [idOf(lvol), lvol.status?.lvolUuid ?? ""];
    tag(scenario, uuid, 7);
    const { fabric } = scenario.target;
    const nqn = lvol.status?.nqn ?? "";
    await using host = await BusyHost.connect({ fabric, host: HOST, nqn });
    const snapshot = await takeSnapshot(agent, id);
    expect(snapshot).toMatchObject({
      spec: { sourceLvolId: id },
      status: { state: "SNAPSHOT_STATE_UP", sizeBytes: SIZE, diskId: lvol.status?.diskId },
    });
    tag(scenario, uuid, 8);
    await host.writesAgain();
    expect(stateOf(await getLvol(agent, id))).toBe("LVOL_STATE_UP");
    const taken = snapshot.status?.lvolUuid ?? "";
    expect(readBack(scenario, taken)?.written).toEqual([7]);
    expect(readBack(scenario, uuid)?.written).toEqual([8]);
    // Asked again, it is the same one.
    const again = await takeSnapshot(agent, id, { id: snapshotIdOf(snapshot) });
    expect(again.status?.lvolUuid).toBe(taken);
    expect(await host.stop()).toEqual([]);
  });

  it("of a thick volume makes it thin, and says so", async () => {
    await using node = await started();
    const { agent } = node;
    const lvol = await provision(agent, { ...SMALL, provisioning: THICK });
    expect(lvol.status?.thin).toBe(false);
    await takeSnapshot(agent, idOf(lvol));
    const after = await getLvol(agent, idOf(lvol));
    expect(after.status).toMatchObject({ state: "LVOL_STATE_UP", thin: true });
  });
});

describe("a clone", () => {
  it("is a volume with the data of its snapshot, and goes its own way", async () => {
    await using node = await started();
    const { scenario, agent } = node;
    const source = await provision(agent, SMALL);
    tag(scenario, source.status?.lvolUuid ?? "", 7);
    const snapshot = await takeSnapshot(agent, idOf(source));
    const clone = await provision(agent, cloneOf(snapshotIdOf(snapshot)));
    expect(clone.status).toMatchObject({ state: "LVOL_STATE_UP", thin: true, sizeBytes: SIZE });
    const uuid = clone.status?.lvolUuid ?? "";
    expect(readBack(scenario, uuid)).toEqual({ written: [7], rest: [0] });
    tag(scenario, uuid, 9);
    expect(readBack(scenario, source.status?.lvolUuid ?? "")?.written).toEqual([7]);
    const { fabric } = scenario.target;
    await using host = await BusyHost.connect({
      fabric,
      host: HOST,
      nqn: clone.status?.nqn ?? "",
    });
    expect(await host.stop()).toEqual([]);
  });

  it("larger than its snapshot has its own size before a host can see it", async () => {
    await using node = await started();
    const { agent } = node;
    const snapshot = await takeSnapshot(agent, idOf(await provision(agent, SMALL)));
    const clone = await provision(agent, cloneOf(snapshotIdOf(snapshot), 2n * SIZE));
    expect(clone.status).toMatchObject({ state: "LVOL_STATE_UP", sizeBytes: 2n * SIZE });
  });

  it("that is thick has all its clusters and no parent", async () => {
    await using node = await started();
    const { scenario, agent } = node;
    const source = await provision(agent, SMALL);
    tag(scenario, source.status?.lvolUuid ?? "", 7);
    const snapshot = await takeSnapshot(agent, idOf(source));
    const id = snapshotIdOf(snapshot);
    const clone = await provision(agent, { ...cloneOf(id), provisioning: THICK });
    const { thin, lvolUuid = "", allocatedBytes } = clone.status ?? {};
    expect({ thin, allocatedBytes }).toEqual({ thin: false, allocatedBytes: SIZE });
    expect(readBack(scenario, lvolUuid)).toEqual({ written: [7], rest: [0] });
    await remove(agent, idOf(source));
    // Nothing stands on the snapshot any more.
    expect(await deleteSnapshot(agent, id)).toEqual({ done: true });
    expect(readBack(scenario, lvolUuid)?.written).toEqual([7]);
  });

  it("is refused where it cannot be made, with the reason", async () => {
    await using node = await started();
    const { agent } = node;
    const lvol = await provision(agent, SMALL);
    const id = snapshotIdOf(await takeSnapshot(agent, idOf(lvol)));
    const smaller = await refusal(provision(agent, cloneOf(id, SIZE / 2n)));
    expect(smaller.reason).toBe("INVALID_FIELD");
    const elsewhere = await refusal(provision(agent, { ...cloneOf(id), diskId: randomUUID() }));
    expect(elsewhere.reason).toBe("INVALID_FIELD");
    const ofVolume = await refusal(provision(agent, cloneOf(idOf(lvol))));
    expect(ofVolume.reason).toBe("INVALID_FIELD");
    const notAVolume = {
      reason: "NOT_FOUND",
      message: expect.stringContaining("a snapshot has that id"),
    };
    expect(await refusal(resize(agent, id, 2n * SIZE))).toMatchObject(notAVolume);
    expect(await refusal(takeSnapshot(agent, id))).toMatchObject(notAVolume);
  });
});

describe("the deletion of a snapshot", () => {
  it("merges it into its only clone, which keeps its data", async () => {
    await using node = await started();
    const { scenario, agent } = node;
    const lvol = await provision(agent, SMALL);
    const uuid = lvol.status?.lvolUuid ?? "";
    tag(scenario, uuid, 7);
    const id = snapshotIdOf(await takeSnapshot(agent, idOf(lvol)));
    expect(await deleteSnapshot(agent, id)).toEqual({ done: true });
    expect(await deleteSnapshot(agent, id)).toEqual({ done: true });
    expect((await getSnapshot(agent, id)).status?.state).toBe("SNAPSHOT_STATE_DELETED");
    expect(readBack(scenario, uuid)).toEqual({ written: [7], rest: [0] });
    expect(stateOf(await getLvol(agent, idOf(lvol)))).toBe("LVOL_STATE_UP");
    const retired = await refusal(takeSnapshot(agent, idOf(lvol), { id }));
    expect(retired.reason).toBe("ID_RETIRED");
  });

  it("with two clones is refused with their ids, or done once one of them is gone", async () => {
    await using node = await started();
    const { agent } = node;
    const source = await provision(agent, SMALL);
    const id = snapshotIdOf(await takeSnapshot(agent, idOf(source)));
    const clone = await provision(agent, cloneOf(id));
    const both = [idOf(source), idOf(clone)].toSorted();
    const refused = await refusal(deleteSnapshot(agent, id));
    expect(refused).toMatchObject({ reason: "HAS_CLONES", metadata: { clones: both.join(",") } });
    expect(await deleteSnapshot(agent, id, { deferred: true, wait: false })).toEqual({
      done: false,
    });
    const waits = (await getSnapshot(agent, id)).status;
    expect(waits).toMatchObject({ state: "SNAPSHOT_STATE_DELETING", blockingLvolIds: both });
    await remove(agent, idOf(source));
    await until("the snapshot is gone", async () => {
      return (await getSnapshot(agent, id)).status?.state === "SNAPSHOT_STATE_DELETED";
    });
    expect(stateOf(await getLvol(agent, idOf(clone)))).toBe("LVOL_STATE_UP");
  });
});

describe("after a restart of the target", () => {
  it("snapshots, clones and their sources are UP again with their data", async () => {
    await using node = await started();
    const { scenario, agent } = node;
    const source = await provision(agent, SMALL);
    tag(scenario, source.status?.lvolUuid ?? "", 7);
    const id = snapshotIdOf(await takeSnapshot(agent, idOf(source)));
    const clone = await provision(agent, cloneOf(id));
    await scenario.target.restart();
    await until("the snapshot is UP", async () => {
      return (await getSnapshot(agent, id)).status?.state === "SNAPSHOT_STATE_UP";
    });
    await settled(scenario);
    expect(readBack(scenario, await uuidOf(agent, idOf(clone)))?.written).toEqual([7]);
  });
});

describe("a chain of 30 snapshots with a clone of each", () => {
  it("says what stands on what, and goes in any order", async () => {
    await using node = await started();
    const { scenario, agent } = node;
    const { client } = agent;
    const size = { sizeBytes: SIZE / 8n };
    const source = idOf(await provision(agent, size));
    const links: { readonly snapshot: string; readonly clone: string }[] = [];
    for (let link = 0; link < 30; link += 1) {
      const snapshot = snapshotIdOf(await takeSnapshot(agent, source));
      links.push({ snapshot, clone: randomUUID() });
    }
    await Promise.all(
      links.map(({ snapshot, clone: id }) =>
        provision(agent, { ...size, sourceSnapshotId: snapshot }, { id }),
      ),
    );
    const [first, second] = links;
    const target = { $case: "snapshotId" as const, value: first?.snapshot ?? "" };
    const { checks, summary } = await call(client, client.explain.bind(client), { target });
    expect(summary).toContain("UP");
    expect(checks[1]?.evidence).toContain(second?.snapshot);
    expect(checks[1]?.evidence).toContain(first?.clone);
    const deferred = { deferred: true, wait: false };
    await Promise.all(links.map(({ snapshot }) => deleteSnapshot(agent, snapshot, deferred)));
    await Promise.all([remove(agent, source), ...links.map(({ clone }) => remove(agent, clone))]);
    await Promise.all(links.map(({ snapshot }) => deleteSnapshot(agent, snapshot)));
    expect(onTarget(scenario)).toEqual(exactly([]));
  });
});

describe("members of a clone family that change at once", () => {
  it("are changed one after another: overlapping changes would kill the target", async () => {
    await using node = await started();
    const { scenario, agent } = node;
    const families = await Promise.all(
      Array.from({ length: 6 }, async () => {
        const source = idOf(await provision(agent, SMALL));
        const first = snapshotIdOf(await takeSnapshot(agent, source));
        const clone = idOf(await provision(agent, cloneOf(first)));
        return { source, first, clone };
      }),
    );
    const all = families.flatMap(({ source, first, clone }) => [
      deleteSnapshot(agent, first, { deferred: true }),
      takeSnapshot(agent, clone),
      remove(agent, source),
      resize(agent, clone, 2n * SIZE),
      remove(agent, clone),
    ]);
    await Promise.race([Promise.allSettled(all), scenario.target.aborted]);
    await Promise.race([
      Promise.all(families.map(({ first }) => deleteSnapshot(agent, first))),
      scenario.target.aborted,
    ]);
    await settled(scenario);
    expect(await call(agent.client, agent.client.getHealth.bind(agent.client), {})).toMatchObject({
      ready: true,
    });
  });
});
