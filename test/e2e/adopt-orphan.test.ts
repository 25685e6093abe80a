// AdoptOrphan: an lvol that no row names becomes a volume with its data, under one id, for nobody until
// AllowHost; whatever dies meanwhile, no lvol is deleted, made in its place, or shown to a host unasked.
import { randomUUID } from "node:crypto";
import { describe, expect, it } from "vitest";
import { volumeNqn } from "../../src/model/identity.ts";
import { SimulatedHost } from "../../src/sim/host/simulated-host.ts";
import type { SpdkClient } from "../../src/spdk/client.ts";
import { anotherHand } from "../support/another-hand.ts";
import type { Lvol } from "../../src/gen/storagenode/v1/lvol.ts";
import { BY_HAND, call, refusal, until } from "../support/agent.ts";
import {
  crashScenario,
  exactly,
  onTarget,
  readBack,
  tag,
  type CrashScenario,
} from "../support/crash-scenario.ts";
import { NO_ATTACH } from "../support/no-attach.ts";
import { deleteSnapshot, takeSnapshot } from "../support/snapshots.ts";
import { getLvol, GIB, HOST, idOf, provision, remove, stateOf, WAIT } from "../support/volumes.ts";

const PREFIX = "nqn.2026-11.io.storage-node";
const SMALL = { sizeBytes: GIB / 16n };
const BYTE = 0x5a;

type Scenario = AsyncDisposable & {
  readonly scenario: CrashScenario;
  /** What is done with it is done behind the agent's back. */
  readonly spdk: SpdkClient;
  readonly store: { readonly uuid: string; readonly name: string };
};

async function start(
  env: Readonly<Record<string, string>> = {},
  eventsMs = 20,
  graceMs?: number,
): Promise<Scenario> {
  const stack = new AsyncDisposableStack();
  const timing = graceMs === undefined ? { eventsMs } : { eventsMs, graceMs };
  const scenario = stack.use(await crashScenario(timing, { env: { ...BY_HAND, ...env } }));
  const agent = await scenario.start();
  await agent.ready();
  const { spdk } = stack.use(await anotherHand(scenario));
  const [disk] = [...agent.node.agent.rows.disks()];
  const store = { uuid: disk?.lvsUuid ?? "", name: disk?.lvsName ?? "" };
  return { scenario, spdk, store, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

/** An lvol with bytes of its own that no row names, once the agent lists it. */
async function orphan(on: Scenario, lvolName: string, thin = true): Promise<string> {
  const { sizeBytes } = SMALL;
  const made = { lvsUuid: on.store.uuid, lvolName, sizeBytes, thin, clearMethod: "none" } as const;
  const uuid = await on.spdk.bdevLvolCreate(made);
  tag(on.scenario, uuid, BYTE);
  await until("the agent lists the orphan", () =>
    on.scenario
      .agent()
      .node.agent.orphans.known()
      .some((one) => one.uuid === uuid),
  );
  return uuid;
}

async function adopt({ scenario }: Scenario, uuid: string, id: string): Promise<Lvol> {
  const { client } = scenario.agent();
  const { lvol } = await call(client, client.adoptOrphan.bind(client), { uuid, id });
  if (lvol === undefined) throw new Error("no volume in the answer");
  return lvol;
}

async function allowHost({ scenario }: Scenario, lvolId: string): Promise<void> {
  const { client } = scenario.agent();
  const request = { lvolId, hostNqn: HOST, waitTimeout: WAIT };
  await call(client, client.allowHost.bind(client), request);
  await until("the volume is UP", async () => {
    return stateOf(await getLvol(scenario.agent(), lvolId)) === "LVOL_STATE_UP";
  });
}

/** A host that reads what the orphan held, and writes. */
async function useAsHost({ scenario }: Scenario, id: string): Promise<void> {
  using host = new SimulatedHost({
    fabric: scenario.target.fabric,
    host: HOST,
    nqn: volumeNqn(PREFIX, id),
    address: { traddr: "127.0.0.1", trsvcid: "4440" },
    reconnectDelayMs: 20,
    ctrlLossTmoMs: 60_000,
  });
  host.start();
  await host.until(() => host.device !== undefined);
  const read = await host.read(0, 4_096);
  expect(read).toMatchObject({ ok: true });
  expect(await host.write(8_192, Buffer.alloc(4_096, 1))).toMatchObject({ ok: true });
}

const isTarget = ({ name }: { readonly name: string }) => name === "target";
const disk = ({ scenario }: Scenario) => [...scenario.agent().node.agent.rows.disks()][0];

describe("AdoptOrphan", () => {
  it("makes it a volume that nobody reaches before AllowHost, and then with its data", async () => {
    await using on = await start();
    const id = randomUUID();
    const uuid = await orphan(on, id);
    const before = disk(on);
    const lvol = await adopt(on, uuid, id);
    expect(lvol).toMatchObject({
      meta: { id },
      spec: { sizeBytes: SMALL.sizeBytes, allowedHostNqns: [], allowAnyHost: false },
      status: {
        lvolUuid: uuid,
        thin: true,
        sizeBytes: SMALL.sizeBytes,
        nqn: volumeNqn(PREFIX, id),
      },
    });
    expect(disk(on)?.promisedBytes).toBe((before?.promisedBytes ?? 0n) + SMALL.sizeBytes);
    expect(disk(on)?.lvolCount).toBe((before?.lvolCount ?? 0) + 1);
    expect(disk(on)?.freeSpace).toBe("ZEROED");
    expect(on.scenario.agent().node.agent.orphans.known()).toEqual([]);
    await until("the lvol was observed", () => {
      const { agent } = on.scenario.agent().node;
      const row = agent.rows.lvol(id);
      return row !== undefined && agent.view(row).observed.lvol?.kind === "present";
    });
    const exported = (await getLvol(on.scenario.agent(), id)).status?.conditions.find(
      ({ type }) => type === "Exported",
    );
    expect(exported).toMatchObject({ reason: "UNCONFIRMED" });
    expect(onTarget(on.scenario)).toMatchObject({ lvols: [id], exported: [] });
    await allowHost(on, id);
    expect(onTarget(on.scenario)).toEqual(exactly([id]));
    await useAsHost(on, id);
    expect(readBack(on.scenario, uuid)?.written).toEqual([BYTE]);
    expect(on.scenario.target.aborts()).toBe(0);
  });

  it("answers the same again, also after AllowHost and while the target is away", async () => {
    await using on = await start();
    const id = randomUUID();
    const uuid = await orphan(on, id);
    const [one, two] = await Promise.all([adopt(on, uuid, id), adopt(on, uuid, id)]);
    expect(one?.meta).toEqual(two?.meta);
    await allowHost(on, id);
    expect((await adopt(on, uuid, id)).spec?.allowedHostNqns).toEqual([HOST]);
    await on.scenario.target.kill();
    await until("the agent knows", () => !on.scenario.agent().node.agent.ready());
    expect((await adopt(on, uuid, id)).status?.lvolUuid).toBe(uuid);
    expect(disk(on)?.lvolCount).toBe(1);
    await on.scenario.target.restart();
  });

  it("does not say that an lvol is absent before its store is loaded", async () => {
    await using on = await start();
    const { target } = on.scenario;
    const id = randomUUID();
    const uuid = await orphan(on, id);
    const seen = () => on.scenario.agent().node.agent.components().find(isTarget);
    const before = seen()?.since;
    target.state().flush();
    await target.restart();
    const { gate } = target.engine();
    gate.addRule(NO_ATTACH);
    await until("the new target is known", () => seen()?.ok === true && seen()?.since !== before);
    const loading = { code: 14, reason: "STORE_LOADING" };
    expect(await refusal(adopt(on, uuid, id))).toMatchObject(loading);
    gate.clear();
    await until("it is adopted", async () => {
      const lvol = await adopt(on, uuid, id).catch(() => undefined);
      return lvol?.status?.lvolUuid === uuid;
    });
    const missing = { code: 5, reason: "NOT_FOUND" };
    expect(await refusal(adopt(on, randomUUID(), randomUUID()))).toMatchObject(missing);
  });

  it("gives an lvol of another name the id as its name, so that rows can be rebuilt from it", async () => {
    await using on = await start();
    const id = randomUUID();
    const uuid = await orphan(on, "by-hand", false);
    expect((await adopt(on, uuid, id)).status).toMatchObject({ lvolUuid: uuid, thin: false });
    await until("it is renamed", () => onTarget(on.scenario).lvols.includes(id));
    await allowHost(on, id);
    expect(onTarget(on.scenario)).toEqual(exactly([id]));
    await on.scenario.target.restart();
    await allowHost(on, id);
    expect(onTarget(on.scenario)).toEqual(exactly([id]));
    expect(readBack(on.scenario, uuid)?.written).toEqual([BYTE]);
  });

  it("is refused for ids that are used or another's name, and for lvols of volumes", async () => {
    await using on = await start();
    const agent = on.scenario.agent();
    const used = await provision(agent, SMALL);
    const gone = await provision(agent, SMALL);
    await remove(agent, idOf(gone));
    const id = randomUUID();
    const uuid = await orphan(on, id);
    const other = await refusal(adopt(on, uuid, randomUUID()));
    expect(other).toMatchObject({ code: 3, reason: "INVALID_FIELD", fields: ["id"] });
    expect(other.message).toContain(`must be ${id}`);
    const reason = async (asked: string, as: string) =>
      (await refusal(adopt(on, asked, as))).reason;
    expect(await reason(uuid, idOf(used))).toBe("SPEC_MISMATCH");
    expect(await reason(uuid, idOf(gone))).toBe("ID_RETIRED");
    expect(await reason(used.status?.lvolUuid ?? "", randomUUID())).toBe("IN_USE");
    expect(await reason(randomUUID(), randomUUID())).toBe("NOT_FOUND");
    const invalid = await refusal(adopt(on, "by-hand", "ID"));
    expect(invalid).toMatchObject({ code: 3, fields: ["uuid", "id"] });
    const byHand = await orphan(on, "by-hand");
    // The name that it would get is taken.
    expect(await reason(byHand, id)).toBe("ORPHAN_EXISTS");
    await adopt(on, uuid, id);
    expect(await reason(byHand, id)).toBe("SPEC_MISMATCH");
    expect(await reason(uuid, randomUUID())).toBe("IN_USE");
    const twice = await Promise.allSettled([
      adopt(on, byHand, randomUUID()),
      adopt(on, byHand, randomUUID()),
    ]);
    expect(twice.map(({ status }) => status).toSorted()).toEqual(["fulfilled", "rejected"]);
    expect(
      [...agent.node.agent.rows.lvols()].filter((row) => row.lvolUuid === byHand),
    ).toHaveLength(1);
  });

  it("is refused for snapshots, clones, and what is exported or has a subsystem with its NQN", async () => {
    await using on = await start();
    const lvsUuid = on.store.uuid;
    const clone = await orphan(on, "base");
    const snapshot = await on.spdk.bdevLvolSnapshot({ lvsUuid, name: clone, snapshotName: "snap" });
    for (const uuid of [clone, snapshot]) {
      const refused = await refusal(adopt(on, uuid, randomUUID()));
      expect(refused).toMatchObject({ code: 9, reason: "NOT_ADOPTABLE" });
    }
    const id = randomUUID();
    const uuid = await orphan(on, id);
    const nqn = volumeNqn(PREFIX, id);
    const asked = { nqn, serialNumber: "S", modelNumber: "M", maxNamespaces: 1 };
    await on.spdk.nvmfCreateSubsystem(asked);
    expect(await refusal(adopt(on, uuid, id))).toMatchObject({
      code: 9,
      reason: "ORPHAN_EXISTS",
      metadata: { kind: "subsystem", name: nqn },
    });
    const nguid = uuid.replaceAll("-", "").toUpperCase();
    await on.spdk.nvmfSubsystemAddNs({ nqn, bdevName: uuid, nsid: 1, uuid, nguid });
    expect((await refusal(adopt(on, uuid, id))).reason).toBe("IN_USE");
    await on.spdk.nvmfDeleteSubsystem(nqn);
    expect((await adopt(on, uuid, id)).meta?.id).toBe(id);
  });

  it("is refused where the disk has promised everything else", async () => {
    await using on = await start({ STORAGE_NODE_OVERCOMMIT: "1" });
    const { totalClusters = 0n, clusterBytes = 0n } = disk(on) ?? {};
    const total = totalClusters * clusterBytes;
    const uuid = await orphan(on, "by-hand");
    const agent = on.scenario.agent();
    // A thin orphan holds the one cluster that was written, and the rest is promised to the volume.
    await provision(agent, { sizeBytes: total - SMALL.sizeBytes + clusterBytes });
    const refused = await refusal(adopt(on, uuid, randomUUID()));
    expect(refused).toMatchObject({ code: 8, reason: "NO_CAPACITY" });
    expect(refused.message).toContain(`${SMALL.sizeBytes - clusterBytes} bytes left`);
    const thick = await orphan(on, "thick", false);
    expect((await refusal(adopt(on, thick, randomUUID()))).reason).toBe("NO_CAPACITY");
  });

  it("adopts no lvol of a deleted volume that came back, which is deleted again", async () => {
    // No event tells the agent of it before it is asked.
    await using on = await start({}, 600_000);
    const { sizeBytes } = SMALL;
    const id = randomUUID();
    const made = { lvsUuid: on.store.uuid, lvolName: id, sizeBytes, thin: true } as const;
    const uuid = await on.spdk.bdevLvolCreate({ ...made, clearMethod: "none" });
    const taken = `insert into object_id select '${id}', number, 'l' from node`;
    const compact = `insert into tombstone select '${id}', id, '${uuid}' from disk`;
    await on.scenario.query(`${taken}; ${compact}`);
    expect(await refusal(adopt(on, uuid, randomUUID()))).toMatchObject({
      code: 9,
      reason: "ID_RETIRED",
    });
    on.scenario.loseConnection();
    await until("it is deleted again", () => onTarget(on.scenario).lvols.length === 0);
  });

  it("adopts no lvol whose purge an earlier agent has sent, while that may run", async () => {
    await using on = await start({}, 20, 60_000);
    const { scenario } = on;
    const id = randomUUID();
    const uuid = await orphan(on, id);
    const { client } = scenario.agent();
    const { gate } = scenario.target.engine();
    gate.resetCounts();
    gate.addRule({ effect: "slow", method: "bdev_lvol_delete", nth: 1, ms: 4_000 });
    const what = { kind: "lvol", name: `${on.store.name}/${id}`, uuid, reason: "test" };
    const purged = call(client, client.purgeOrphan.bind(client), what).catch(() => {});
    await until("the purge is sent", () => gate.counts["bdev_lvol_delete"] === 1);
    await scenario.killAgent();
    await purged;
    await (await scenario.start()).ready();
    expect(await refusal(adopt(on, uuid, id))).toMatchObject({ code: 9, reason: "DISK_NOT_UP" });
    await until("it is gone", async () => {
      return (await refusal(adopt(on, uuid, id))).reason === "NOT_FOUND";
    });
  });

  it("makes the free space UNKNOWN before an adopted lvol is deleted", async () => {
    await using on = await start();
    const id = randomUUID();
    const uuid = await orphan(on, id);
    await adopt(on, uuid, id);
    const { gate } = on.scenario.target.engine();
    const stopped = new Promise((resolve) => (gate.onStopped = resolve));
    gate.stopAt({ when: "before", method: "bdev_lvol_delete", nth: 1 });
    const asked = remove(on.scenario.agent(), id);
    await stopped;
    expect(disk(on)?.freeSpace).toBe("UNKNOWN");
    gate.onStopped = () => {};
    on.scenario.target.resume();
    expect(await asked).toEqual({ done: true });
    expect(onTarget(on.scenario)).toEqual(exactly([]));
    const refused = await refusal(provision(on.scenario.agent(), SMALL));
    expect(refused.reason).toBe("FREE_SPACE_NOT_ZEROED");
  });
});

describe("a snapshot of an adopted volume", () => {
  it("makes the free space UNKNOWN before it is deleted, as it is cleared like the volume", async () => {
    await using on = await start();
    const agent = on.scenario.agent();
    const id = randomUUID();
    await adopt(on, await orphan(on, id), id);
    await allowHost(on, id);
    const snapshot = await takeSnapshot(agent, id);
    const { gate } = on.scenario.target.engine();
    const stopped = new Promise((resolve) => (gate.onStopped = resolve));
    gate.stopAt({ when: "before", method: "bdev_lvol_delete", nth: 1 });
    expect(disk(on)?.freeSpace).toBe("ZEROED");
    const asked = deleteSnapshot(agent, snapshot.meta?.id ?? "");
    await stopped;
    expect(disk(on)?.freeSpace).toBe("UNKNOWN");
    gate.onStopped = () => {};
    on.scenario.target.resume();
    await asked;
    expect(onTarget(on.scenario)).toEqual(exactly([id]));
  });
});

describe("an adoption that is cut off", () => {
  const METHODS = [
    "bdev_get_bdevs",
    "bdev_lvol_rename",
    "nvmf_create_subsystem",
    "nvmf_subsystem_add_ns",
    "nvmf_subsystem_add_listener",
  ] as const;
  const WHO = ["agent", "target"] as const;
  const cases = METHODS.flatMap((method) =>
    WHO.flatMap((who) => (["before", "after"] as const).map((when) => ({ method, who, when }))),
  );

  it.each(cases)("by a kill of the $who $when $method ends in one volume", async (at) => {
    await using on = await start();
    const { scenario } = on;
    const id = randomUUID();
    const uuid = await orphan(on, "by-hand");
    const { gate } = scenario.target.engine();
    const stopped = new Promise<void>((resolve) => (gate.onStopped = () => resolve()));
    gate.stopAt({ when: at.when, method: at.method, nth: 1 });
    const asked = (async () => {
      await adopt(on, uuid, id);
      await allowHost(on, id);
    })().catch(() => {});
    await stopped;
    gate.onStopped = () => {};
    if (at.who === "agent") {
      await scenario.killAgent();
      scenario.target.resume();
      await asked;
      const agent = await scenario.start();
      await agent.ready();
    } else {
      await scenario.target.restart();
      await scenario.agent().ready();
      await asked;
    }
    await until("the call was answered", async () => {
      return await adopt(on, uuid, id).then(
        () => true,
        () => false,
      );
    });
    await allowHost(on, id);
    await until("it is renamed", () => onTarget(scenario).lvols.includes(id));
    expect(onTarget(scenario)).toEqual(exactly([id]));
    expect(readBack(scenario, uuid)?.written).toEqual([BYTE]);
    expect([...scenario.agent().node.agent.rows.lvols()].map((row) => row.id)).toEqual([id]);
    expect(disk(on)?.lvolCount).toBe(1);
    expect(scenario.target.aborts()).toBe(0);
  });

  it("by a commit whose answer was lost answers the same again, and nothing is purged", async () => {
    await using on = await start();
    const { scenario } = on;
    const id = randomUUID();
    const uuid = await orphan(on, id);
    await scenario.database().down();
    await refusal(adopt(on, uuid, id));
    await scenario.database().up();
    await scenario.agent().ready();
    await until("it is adopted", async () => {
      return await adopt(on, uuid, id).then(
        () => true,
        () => false,
      );
    });
    const { client } = scenario.agent();
    const purge = { kind: "lvol", name: `${on.store.name}/${id}`, uuid, reason: "test" };
    expect((await refusal(call(client, client.purgeOrphan.bind(client), purge))).reason).toBe(
      "IN_USE",
    );
    await allowHost(on, id);
    expect(onTarget(scenario)).toEqual(exactly([id]));
  });

  it("by no purge of the same lvol: one of the two wins, and the other is refused", async () => {
    await using on = await start();
    const id = randomUUID();
    const uuid = await orphan(on, id);
    const { client } = on.scenario.agent();
    const purge = { kind: "lvol", name: `${on.store.name}/${id}`, uuid, reason: "test" };
    const [purged, adopted] = await Promise.allSettled([
      call(client, client.purgeOrphan.bind(client), purge),
      adopt(on, uuid, id),
    ]);
    expect([purged.status, adopted.status].toSorted()).toEqual(["fulfilled", "rejected"]);
    const lvols = adopted.status === "fulfilled" ? [id] : [];
    expect(onTarget(on.scenario).lvols).toEqual(lvols);
    expect([...on.scenario.agent().node.agent.rows.lvols()].map((row) => row.id)).toEqual(lvols);
  });
});
