// ResizeLvol end to end, with an agent and a target that can die: the size that was asked for is reached,
// hosts keep their I/O and see it, and nothing is ever made smaller.
import { afterEach, describe, expect, it } from "vitest";
import { Provisioning } from "../../src/gen/storagenode/v1/lvol.ts";
import { NO_LIMITS } from "../../src/model/lvol.ts";
import { readLvol } from "../../src/sim/target/clusters.ts";
import { spdkClient, type SpdkClient } from "../../src/spdk/client.ts";
import { SpdkConnection } from "../../src/spdk/connection.ts";
import { BY_HAND, call, refusal, until, type TestAgent } from "../support/agent.ts";
import { BusyHost } from "../support/busy-host.ts";
import { crashScenario, readBack, tag, type CrashScenario } from "../support/crash-scenario.ts";
import { takeSnapshot } from "../support/snapshots.ts";
import {
  HOST,
  idOf,
  getLvol,
  provision,
  remove,
  resize,
  stateOf,
  update,
  WAIT,
} from "../support/volumes.ts";

const MIB = 1024n * 1024n;
const CLUSTER = 4n * MIB;
const SMALL = { sizeBytes: 64n * MIB };

let stack: AsyncDisposableStack;
let scenario: CrashScenario;
let agent: TestAgent;
/** A client of the target that the agent knows nothing of. */
let other: SpdkClient;

/** eventsMs: how often the agent asks the target what others have done to it. */
async function begin(eventsMs = 100): Promise<void> {
  stack = new AsyncDisposableStack();
  scenario = stack.use(await crashScenario({ eventsMs }, { env: BY_HAND }));
  agent = await scenario.start();
  await agent.ready();
  const path = scenario.target.socket;
  const connection = new SpdkConnection({ path, mayMutate: () => true });
  stack.use(connection);
  other = spdkClient(connection);
}

afterEach(async () => {
  await stack?.[Symbol.asyncDispose]();
  if (scenario?.target.aborts() > 0) throw new Error("the target aborted, as it does on a shrink");
});

const blobOf = (uuid: string | undefined) => scenario.target.state().lvol(uuid ?? "");
const bytesOf = (uuid: string | undefined) => BigInt(blobOf(uuid)?.blob.clusters ?? 0) * CLUSTER;

async function diskOf(id: string) {
  const { client } = agent;
  const { disk } = await call(client, client.getDisk.bind(client), { diskId: id });
  return disk;
}

describe("a volume that a host uses", () => {
  it("grows under it: the host keeps its I/O and its data, and sees the new size", async () => {
    await begin();
    const made = await provision(agent, SMALL);
    const { lvolUuid = "", nqn = "" } = made.status ?? {};
    await using host = await BusyHost.connect({ fabric: scenario.target.fabric, host: HOST, nqn });
    const grown = await resize(agent, idOf(made), 130n * MIB);
    expect(stateOf(grown)).toBe("LVOL_STATE_UP");
    expect(grown.spec?.sizeBytes).toBe(130n * MIB);
    expect(grown.status?.sizeBytes).toBe(132n * MIB);
    expect(grown.status?.observedGeneration).toBe(grown.meta?.generation);
    expect(bytesOf(lvolUuid)).toBe(132n * MIB);
    await host.seesBytes(Number(132n * MIB));
    await host.writesAgain();
    expect(await host.stop()).toEqual([]);
  });

  it("is not read again because of the event of its own resize", async () => {
    await begin(20);
    const made = await provision(agent, SMALL);
    const { gate } = scenario.target.engine();
    const count = (method: string) => gate.counts[method] ?? 0;
    const reads = count("bdev_get_bdevs");
    await resize(agent, idOf(made), 128n * MIB);
    const polls = count("notify_get_notifications");
    await until("the agent has seen the event", () => {
      return count("notify_get_notifications") > polls + 2;
    });
    // Before the change and after it.
    expect(count("bdev_get_bdevs")).toBe(reads + 2);
  });

  it("promises the larger size on its disk, and gives it back when it is deleted", async () => {
    await begin();
    const made = await provision(agent, SMALL);
    const diskId = made.status?.diskId ?? "";
    const promised = async () => (await diskOf(diskId))?.status?.lvstore?.promisedBytes ?? 0n;
    const before = await promised();
    await resize(agent, idOf(made), 128n * MIB);
    expect(await promised()).toBe(before + 64n * MIB);
    await remove(agent, idOf(made));
    expect(await promised()).toBe(before - 64n * MIB);
  });
});

describe("a resize", () => {
  it("to the present size changes nothing, and to a smaller one is refused with both sizes", async () => {
    await begin();
    const made = await provision(agent, SMALL);
    const same = await resize(agent, idOf(made), SMALL.sizeBytes);
    expect(same.meta?.generation).toBe(made.meta?.generation);
    const refused = await refusal(resize(agent, idOf(made), 60n * MIB));
    expect(refused).toMatchObject({
      code: 11,
      reason: "SHRINK_REFUSED",
      metadata: { present_bytes: `${64n * MIB}`, asked_bytes: `${60n * MIB}` },
    });
    expect(bytesOf(made.status?.lvolUuid)).toBe(64n * MIB);
  });

  it("ends with the largest of many that are asked for at once; the others are told the truth", async () => {
    await begin();
    const made = await provision(agent, SMALL);
    const sizes = [96n, 200n, 128n, 72n, 160n].map((mebibytes) => mebibytes * MIB);
    const answers = await Promise.all(
      sizes.map(async (sizeBytes) => {
        const answer = resize(agent, idOf(made), sizeBytes);
        return await answer.catch(() => refusal(answer));
      }),
    );
    for (const [index, answer] of answers.entries()) {
      const asked = sizes[index] ?? 0n;
      if ("reason" in answer) expect(answer.reason).toBe("SHRINK_REFUSED");
      else expect(answer.status?.sizeBytes).toBeGreaterThanOrEqual(asked);
    }
    const after = await getLvol(agent, idOf(made));
    expect([after.spec?.sizeBytes, after.status?.sizeBytes]).toEqual([200n * MIB, 200n * MIB]);
    expect(bytesOf(made.status?.lvolUuid)).toBe(200n * MIB);
  });

  it("of a volume in the making is carried out as well", async () => {
    await begin();
    const made = await provision(agent, SMALL, { wait: false });
    const grown = await resize(agent, idOf(made), 128n * MIB);
    expect(stateOf(grown)).toBe("LVOL_STATE_UP");
    expect(bytesOf(grown.status?.lvolUuid)).toBe(128n * MIB);
  });

  it("is refused for a volume that is being deleted, was deleted, or never was", async () => {
    await begin();
    const id = idOf(await provision(agent, SMALL));
    const { gate } = scenario.target.engine();
    gate.addRule({ effect: "slow", method: "nvmf_delete_subsystem", nth: 1, polls: 100 });
    await remove(agent, id, { wait: false });
    expect(await refusal(resize(agent, id, 128n * MIB))).toMatchObject({ reason: "ID_RETIRED" });
    await remove(agent, id);
    expect(await refusal(resize(agent, id, 128n * MIB))).toMatchObject({ reason: "NOT_FOUND" });
    const never = "11111111-2222-4333-8444-555555555555";
    expect(await refusal(resize(agent, never, 128n * MIB))).toMatchObject({ reason: "NOT_FOUND" });
  });

  it("that is under way does not keep a deletion away", async () => {
    await begin();
    const made = await provision(agent, SMALL);
    const { gate } = scenario.target.engine();
    const begun = new Promise((resolve) => (gate.onStopped = resolve));
    gate.addRule({ effect: "slow", method: "bdev_lvol_resize", nth: 1, polls: 50 });
    gate.stopAt({ method: "bdev_lvol_resize", when: "before", nth: 1 });
    await resize(agent, idOf(made), 128n * MIB, { wait: false });
    await begun;
    scenario.target.resume();
    expect(await remove(agent, idOf(made))).toEqual({ done: true });
    expect(blobOf(made.status?.lvolUuid)).toBeUndefined();
  });

  it("beyond the disk is refused, and beyond what it has left with what was asked and is left", async () => {
    await begin();
    const made = await provision(agent, SMALL);
    const total = (await diskOf(made.status?.diskId ?? ""))?.status?.lvstore?.totalBytes ?? 0n;
    const beyond = await refusal(resize(agent, idOf(made), total + 1n));
    expect(beyond).toMatchObject({ code: 11, reason: "INVALID_FIELD", fields: ["size_bytes"] });
    const thick = { ...SMALL, provisioning: Provisioning.PROVISIONING_THICK };
    const full = await provision(agent, { ...thick, diskId: made.status?.diskId ?? "" });
    const refused = await refusal(resize(agent, idOf(full), total));
    expect(refused).toMatchObject({
      code: 8,
      reason: "NO_CAPACITY",
      metadata: { asked_bytes: `${total - 64n * MIB}`, left_bytes: `${total - 128n * MIB}` },
    });
  });
});

describe("a resize that cannot be carried out yet", () => {
  it("is accepted while the target is down, and carried out when it is back", async () => {
    await begin();
    const made = await provision(agent, SMALL);
    await scenario.target.kill();
    await until("the agent knows", async () => {
      return stateOf(await getLvol(agent, idOf(made))) === "LVOL_STATE_DEGRADED";
    });
    const asked = await resize(agent, idOf(made), 128n * MIB, { wait: false });
    expect(asked.spec?.sizeBytes).toBe(128n * MIB);
    await scenario.target.restart();
    await until("it has grown", () => bytesOf(made.status?.lvolUuid) === 128n * MIB);
    await until("it is UP", async () => {
      const { status, meta } = await getLvol(agent, idOf(made));
      return status?.observedGeneration === meta?.generation;
    });
  });

  it("takes no clusters that may hold old bytes before ZeroFreeSpace, nor is another accepted", async () => {
    await begin();
    const kept = await provision(agent, SMALL);
    const doomed = await provision(agent, SMALL);
    const { lvolUuid, diskId = "" } = kept.status ?? {};
    const { gate } = scenario.target.engine();
    const stopped = new Promise((resolve) => (gate.onStopped = resolve));
    gate.stopAt({ when: "midway", method: "bdev_lvol_delete", nth: 1 });
    await remove(agent, idOf(doomed), { wait: false });
    await stopped;
    // The disk's row still says that its free clusters are zeroed.
    await resize(agent, idOf(kept), 128n * MIB, { wait: false });
    await scenario.target.restart();
    const { client } = agent;
    const target = { $case: "lvolId" as const, value: idOf(kept) };
    const explain = () => call(client, client.explain.bind(client), { target });
    await until("it says what it waits for", async () => {
      return (await explain()).summary.includes(`ZeroFreeSpace {"diskId": "${diskId}"}`);
    });
    const refused = await refusal(resize(agent, idOf(kept), 256n * MIB));
    expect(refused).toMatchObject({ code: 9, reason: "FREE_SPACE_NOT_ZEROED" });
    expect(bytesOf(lvolUuid)).toBe(64n * MIB);
    await until("it is exported again, in its old size", async () => {
      return stateOf(await getLvol(agent, idOf(kept))) === "LVOL_STATE_RESIZING";
    });
    await call(client, client.zeroFreeSpace.bind(client), { diskId, waitTimeout: WAIT });
    await until("it has grown", () => bytesOf(lvolUuid) === 128n * MIB);
  });

  it("makes no lvol anew for a volume whose data is missing", async () => {
    await begin();
    const made = await provision(agent, SMALL);
    const { lvolUuid = "", nqn = "", diskId = "" } = made.status ?? {};
    const { lvsUuid = "" } = agent.node.agent.rows.disk(diskId) ?? {};
    await other.nvmfSubsystemRemoveNs({ nqn, nsid: 1 });
    await other.bdevLvolDelete({ lvsUuid, name: lvolUuid });
    await until("its data is missing", async () => {
      return stateOf(await getLvol(agent, idOf(made))) === "LVOL_STATE_DATA_MISSING";
    });
    const asked = await resize(agent, idOf(made), 128n * MIB);
    expect(stateOf(asked)).toBe("LVOL_STATE_DATA_MISSING");
    expect(await other.bdevLvolGetLvols()).toEqual([]);
  });
});

describe("a thick volume", () => {
  const THICK = { ...SMALL, provisioning: Provisioning.PROVISIONING_THICK };

  it("reads zeros where it was grown, though a deleted volume had written there", async () => {
    await begin();
    const small = { ...THICK, sizeBytes: 8n * CLUSTER };
    const first = await provision(agent, small);
    const { diskId = "" } = first.status ?? {};
    const second = await provision(agent, { ...small, diskId });
    tag(scenario, second.status?.lvolUuid ?? "", 7, Number(8n * CLUSTER));
    await remove(agent, idOf(second));
    const grown = await resize(agent, idOf(first), 16n * CLUSTER);
    const { lvolUuid = "" } = grown.status ?? {};
    expect(blobOf(lvolUuid)?.blob.allocated.size).toBe(16);
    const lvol = blobOf(lvolUuid);
    expect(
      lvol && [...new Set(readLvol(lvol, Number(8n * CLUSTER), Number(8n * CLUSTER)))],
    ).toEqual([0]);
  });

  it("that finds no room on the target says so, stays exported, and grows once there is some", async () => {
    await begin();
    const made = await provision(agent, THICK);
    const { diskId = "", lvolUuid = "" } = made.status ?? {};
    const { lvsUuid = "", freeClusters = 0n } = agent.node.agent.rows.disk(diskId) ?? {};
    const store = await other.getLvstore({ uuid: lvsUuid });
    const clusters = (store?.freeClusters ?? freeClusters) - 4n;
    const eaten = await other.bdevLvolCreate({
      lvsUuid,
      lvolName: "somebody else's",
      sizeBytes: clusters * CLUSTER,
      thin: false,
      clearMethod: "write_zeroes",
    });
    await resize(agent, idOf(made), 128n * MIB, { wait: false });
    const sizeReached = async () => {
      const { status } = await getLvol(agent, idOf(made));
      return status?.conditions.find(({ type }) => type === "SizeReached");
    };
    await until("it says that there is no room", async () => {
      return (await sizeReached())?.reason === "NoSpace";
    });
    await until("its error is recorded", async () => {
      const { status } = await getLvol(agent, idOf(made));
      return status?.lastError.includes("No space left on device") === true;
    });
    const waiting = await getLvol(agent, idOf(made));
    expect(stateOf(waiting)).toBe("LVOL_STATE_RESIZING");
    const { client } = agent;
    const { export: shown } = await call(client, client.getExport.bind(client), {
      target: { $case: "lvolId", value: idOf(made) },
      hostNqn: HOST,
    });
    expect(shown?.ready).toBe(true);
    const explained = await call(client, client.explain.bind(client), {
      target: { $case: "lvolId", value: idOf(made) },
    });
    expect(explained.summary).toMatch(/clusters free .* grow .* needs \d+ more/);
    await other.bdevLvolDelete({ lvsUuid, name: eaten });
    await until(
      "it has grown",
      async () => (await sizeReached())?.status === "CONDITION_STATUS_TRUE",
    );
    expect(bytesOf(lvolUuid)).toBe(128n * MIB);
  });
});

describe("a volume with a snapshot", () => {
  it("grows with its data under its host; snapshot and clone keep their sizes, and the clone grows too", async () => {
    await begin();
    const made = await provision(agent, SMALL);
    const { lvolUuid = "", nqn = "" } = made.status ?? {};
    tag(scenario, lvolUuid, 7);
    await using host = await BusyHost.connect({ fabric: scenario.target.fabric, host: HOST, nqn });
    const { meta, status } = await takeSnapshot(agent, idOf(made));
    const spec = { ...SMALL, sourceSnapshotId: meta?.id ?? "" };
    const clone = await provision(agent, spec);
    const [grown] = await Promise.all([
      resize(agent, idOf(made), 128n * MIB),
      update(agent, idOf(made), { labels: { a: "1" }, setLabels: true }),
    ]);
    expect(grown.status?.sizeBytes).toBe(128n * MIB);
    expect(readBack(scenario, lvolUuid)?.written).toEqual([7]);
    await host.seesBytes(Number(128n * MIB));
    expect(bytesOf(status?.lvolUuid)).toBe(64n * MIB);
    expect(bytesOf(clone.status?.lvolUuid)).toBe(64n * MIB);
    const larger = await resize(agent, idOf(clone), 256n * MIB);
    expect([stateOf(larger), larger.status?.sizeBytes]).toEqual(["LVOL_STATE_UP", 256n * MIB]);
    expect(readBack(scenario, clone.status?.lvolUuid ?? "")?.written).toEqual([7]);
    await host.writesAgain();
    expect(await host.stop()).toEqual([]);
  });

  it("may be asked for both at once: one change of the family is under way at a time", async () => {
    await begin();
    const made = await provision(agent, SMALL);
    const growing = resize(agent, idOf(made), 128n * MIB);
    const snapshots = [0, 1, 2].map(() => takeSnapshot(agent, idOf(made)));
    const limiting = update(agent, idOf(made), { qos: { ...NO_LIMITS, rwIops: 2_000n } });
    const [grown, limited] = await Promise.all([growing, limiting, ...snapshots]);
    expect(grown.status?.sizeBytes).toBe(128n * MIB);
    expect(limited.status?.qos?.rwIops).toBe(2_000n);
    for (const one of snapshots) expect((await one).status?.state).toBe("SNAPSHOT_STATE_UP");
    await until("it is UP as wanted", async () => {
      const { status, meta } = await getLvol(agent, idOf(made));
      return status?.observedGeneration === meta?.generation;
    });
  });
});

describe("a size that somebody else has changed", () => {
  it("is shown and not taken back, also when less is asked for since", async () => {
    await begin();
    const made = await provision(agent, SMALL);
    const { lvolUuid = "", diskId = "" } = made.status ?? {};
    const { lvsUuid = "" } = agent.node.agent.rows.disk(diskId) ?? {};
    await other.bdevLvolResize({ lvsUuid, name: lvolUuid, sizeBytes: 256n * MIB });
    const shown = async () => (await getLvol(agent, idOf(made))).status?.sizeBytes;
    await until("it is shown", async () => (await shown()) === 256n * MIB);
    const asked = await resize(agent, idOf(made), 128n * MIB);
    expect([asked.spec?.sizeBytes, asked.status?.sizeBytes]).toEqual([128n * MIB, 256n * MIB]);
    expect(bytesOf(lvolUuid)).toBe(256n * MIB);
  });

  it("is not cut off by the next resize, though the agent was not told of it", async () => {
    await begin(600_000);
    const made = await provision(agent, SMALL);
    const { lvolUuid = "", diskId = "" } = made.status ?? {};
    const { lvsUuid = "" } = agent.node.agent.rows.disk(diskId) ?? {};
    await other.bdevLvolResize({ lvsUuid, name: lvolUuid, sizeBytes: 256n * MIB });
    const asked = await resize(agent, idOf(made), 128n * MIB);
    expect(asked.status?.sizeBytes).toBe(256n * MIB);
    expect(bytesOf(lvolUuid)).toBe(256n * MIB);
  });
});
