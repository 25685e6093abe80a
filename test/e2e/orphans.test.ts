// Orphans: lvols and subsystems of this node that no row names. They are listed and counted, keep their
// ids from being used, and are removed by PurgeOrphan only.
import { randomUUID } from "node:crypto";
import { describe, expect, it } from "vitest";
import { volumeNqn } from "../../src/model/identity.ts";
import type { SpdkClient } from "../../src/spdk/client.ts";
import { anotherHand } from "../support/another-hand.ts";
import { BY_HAND, call, refusal, until, type TestAgent } from "../support/agent.ts";
import { crashScenario, exactly, onTarget, type CrashScenario } from "../support/crash-scenario.ts";
import { NO_ATTACH } from "../support/no-attach.ts";
import {
  getLvol,
  GIB,
  HOST,
  idOf,
  provision,
  remove,
  stateOf,
  zeroFreeSpace,
} from "../support/volumes.ts";

const SMALL = { sizeBytes: GIB / 16n };
const PREFIX = "nqn.2026-11.io.storage-node";

type Scenario = AsyncDisposable & {
  readonly scenario: CrashScenario;
  readonly agent: TestAgent;
  /** What is done with it is done behind the agent's back. */
  readonly spdk: SpdkClient;
  readonly store: { readonly uuid: string; readonly name: string };
};

/** eventsMs: the period in which the agent asks the target for events. */
async function start(
  eventsMs = 20,
  env: Readonly<Record<string, string>> = BY_HAND,
): Promise<Scenario> {
  const stack = new AsyncDisposableStack();
  const scenario = stack.use(await crashScenario({ eventsMs }, { env }));
  const agent = await scenario.start();
  await agent.ready();
  const { spdk } = stack.use(await anotherHand(scenario));
  const theDisk = () => [...agent.node.agent.rows.disks()][0];
  await until("the making of the store was recorded", () => theDisk()?.pendingOp === undefined);
  const disk = theDisk();
  const store = { uuid: disk?.lvsUuid ?? "", name: disk?.lvsName ?? "" };
  return { scenario, agent, spdk, store, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

function createLvol({ spdk, store }: Scenario, lvolName: string, thin = true): Promise<string> {
  const { sizeBytes } = SMALL;
  const lvsUuid = store.uuid;
  return spdk.bdevLvolCreate({ lvsUuid, lvolName, sizeBytes, thin, clearMethod: "none" });
}

function createSubsystem({ spdk }: Scenario, nqn: string): Promise<void> {
  return spdk.nvmfCreateSubsystem({
    nqn,
    serialNumber: "ORPHAN",
    modelNumber: "ORPHAN",
    maxNamespaces: 1,
  });
}

async function listed({ agent: { client } }: Scenario, page = { pageSize: 0, pageToken: "" }) {
  return await call(client, client.listOrphans.bind(client), page);
}

/** Waits until the names of all orphans are these. */
async function untilListed(on: Scenario, names: readonly string[]): Promise<void> {
  const wanted = names.toSorted().join();
  await until(`the orphans are ${wanted}`, async () => {
    return (await listed(on)).orphans.map(({ name }) => name).join() === wanted;
  });
}

/** A full scan, which the agent makes every five minutes, and at each connection. */
async function fullScan({ scenario, agent }: Scenario): Promise<void> {
  const since = () => agent.node.agent.components().find(({ name }) => name === "target")?.since;
  const before = since();
  scenario.loseConnection();
  await until("the agent has lost the target", () => since() !== before);
  await agent.ready();
}

type Purge = { readonly kind: string; readonly name: string; readonly uuid?: string };

async function purge({ agent: { client } }: Scenario, { uuid = "", ...what }: Purge) {
  const request = { ...what, uuid, reason: "left over" };
  return await call(client, client.purgeOrphan.bind(client), request);
}

const freeSpace = ({ agent }: Scenario) => [...agent.node.agent.rows.disks()][0]?.freeSpace;
const alias = ({ store }: Scenario, name: string) => `${store.name}/${name}`;

describe("ListOrphans", () => {
  it("has an lvol within the period of events, with what it holds, until it is gone", async () => {
    await using on = await start();
    const id = randomUUID();
    const uuid = await createLvol(on, id, false);
    await untilListed(on, [alias(on, id)]);
    const { orphans } = await listed(on);
    const [disk] = [...on.agent.node.agent.rows.disks()];
    const bytes = SMALL.sizeBytes;
    expect(orphans).toMatchObject([
      { kind: "lvol", uuid, diskId: disk?.id, sizeBytes: bytes, likelyOwner: id },
    ]);
    expect(orphans[0]?.allocatedBytes).toBe(bytes);
    const { client } = on.agent;
    const shown = await call(client, client.getDisk.bind(client), { diskId: disk?.id ?? "" });
    expect(shown.disk?.status?.lvstore?.orphanBytes).toBe(bytes);
    const node = await call(client, client.getNode.bind(client), {});
    expect(node.capacity?.orphanBytes).toBe(bytes);
    await on.spdk.bdevLvolDelete({ lvsUuid: on.store.uuid, name: uuid });
    await untilListed(on, []);
  });

  it("has no volume and no owner mark, and subsystems with this node's NQN prefix only", async () => {
    await using on = await start();
    const lvol = await provision(on.agent, SMALL);
    const gone = await provision(on.agent, SMALL);
    await remove(on.agent, idOf(gone));
    const nqns = [volumeNqn(PREFIX, randomUUID()), gone.status?.nqn ?? ""];
    await Promise.all([...nqns, "nqn.2026-11.io.other:x"].map((nqn) => createSubsystem(on, nqn)));
    const uuid = await createLvol(on, "by-hand");
    const [nqn = ""] = nqns;
    const nguid = uuid.replaceAll("-", "").toUpperCase();
    await on.spdk.nvmfSubsystemAddNs({ nqn, bdevName: uuid, nsid: 1, uuid, nguid });
    await fullScan(on);
    await untilListed(on, [...nqns, alias(on, "by-hand")]);
    const { orphans } = await listed(on);
    expect(orphans.find(({ kind }) => kind === "lvol")).toMatchObject({ nqn, likelyOwner: "" });
    expect(orphans.find(({ name }) => name === nqns[1])?.likelyOwner).toBe(idOf(gone));
    expect(stateOf(await getLvol(on.agent, idOf(lvol)))).toBe("LVOL_STATE_UP");
  });

  it("pages by name, and keeps the time when each was first seen over full scans", async () => {
    await using on = await start();
    const names = ["a", "b", "c"];
    await Promise.all(names.map((name) => createLvol(on, name)));
    await untilListed(
      on,
      names.map((name) => alias(on, name)),
    );
    const before = await listed(on);
    const first = await listed(on, { pageSize: 2, pageToken: "" });
    const second = await listed(on, { pageSize: 2, pageToken: first.nextPageToken });
    expect(second.nextPageToken).toBe("");
    expect([...first.orphans, ...second.orphans]).toEqual(before.orphans);
    await fullScan(on);
    await untilListed(
      on,
      before.orphans.map(({ name }) => name),
    );
    expect(await listed(on)).toEqual(before);
  });

  it("is refused with TARGET_DOWN while the target does not answer", async () => {
    await using on = await start();
    on.scenario.target.engine().gate.stopAt({ when: "before", nth: 1 });
    on.scenario.loseConnection();
    await until("the agent has lost the target", () => !on.agent.node.agent.ready());
    expect(await refusal(listed(on))).toMatchObject({ code: 14, reason: "TARGET_DOWN" });
    on.scenario.target.resume();
  });
});

describe("PurgeOrphan of an lvol", () => {
  it("is not kept waiting by free space that is being zeroed, which then begins anew", async () => {
    const slowly = { STORAGE_NODE_ZEROING_SHARE: "1", STORAGE_NODE_ZEROING_HOLD: "never" };
    await using on = await start(20, slowly);
    const names = ["one", "other"];
    const uuids = await Promise.all(names.map((name) => createLvol(on, name)));
    const [one, other] = names.map((name, index) => ({
      kind: "lvol",
      name: alias(on, name),
      uuid: uuids[index] ?? "",
    }));
    if (one === undefined || other === undefined) throw new Error("no orphans");
    const { gate } = on.scenario.target.engine();
    // Of the lvols of this disk the first delete is that of the orphan; the disk rests long after a slow one.
    gate.addRule({ effect: "slow", method: "bdev_lvol_delete", nth: 6, ms: 500 });
    const disk = () => [...on.agent.node.agent.rows.disks()][0];
    await purge(on, one);
    await until("free space is being zeroed", () => disk()?.zeroing !== undefined);
    // While slices are being made, a moment, the answer is to ask again.
    await until("the other is purged", async () => {
      const asked = await purge(on, other).catch((error: unknown) => String(error));
      if (typeof asked === "string") expect(asked).toContain("ask again");
      return typeof asked !== "string" && asked.done;
    });
    expect(freeSpace(on)).toBe("UNKNOWN");
    await zeroFreeSpace(on.agent);
    expect(freeSpace(on)).toBe("ZEROED");
  });

  it("removes it, makes the free space UNKNOWN, and answers done again", async () => {
    await using on = await start();
    const uuid = await createLvol(on, "by-hand");
    const what = { kind: "lvol", name: alias(on, "by-hand"), uuid };
    expect(await purge(on, what)).toEqual({ done: true });
    expect(onTarget(on.scenario).lvols).toEqual([]);
    expect(freeSpace(on)).toBe("UNKNOWN");
    expect(await purge(on, what)).toEqual({ done: true });
    await untilListed(on, []);
    await until("the pending op ended", () => {
      return [...on.agent.node.agent.rows.disks()][0]?.pendingOp === undefined;
    });
  });

  it("is refused if name and uuid differ, for a volume's lvol, and without a reason", async () => {
    await using on = await start();
    const one = await createLvol(on, "one");
    const two = await createLvol(on, "two");
    const lvol = await provision(on.agent, SMALL);
    const wrong = { kind: "lvol", name: alias(on, "one"), uuid: two };
    expect((await refusal(purge(on, wrong))).reason).toBe("NOT_FOUND");
    const stranger = { ...wrong, uuid: randomUUID() };
    expect((await refusal(purge(on, stranger))).reason).toBe("NOT_FOUND");
    const name = alias(on, idOf(lvol));
    const owned = { kind: "lvol", name, uuid: lvol.status?.lvolUuid ?? "" };
    const message = expect.stringContaining("belongs to a volume");
    expect(await refusal(purge(on, owned))).toMatchObject({ code: 9, reason: "IN_USE", message });
    const { client } = on.agent;
    const request = { kind: "lvol", name: alias(on, "one"), uuid: one, reason: " " };
    const refused = await refusal(call(client, client.purgeOrphan.bind(client), request));
    expect(refused).toMatchObject({ reason: "INVALID_FIELD", fields: ["reason"] });
    expect(onTarget(on.scenario).lvols).toEqual(["one", "two", idOf(lvol)].toSorted());
    expect(freeSpace(on)).toBe("ZEROED");
  });

  it("is refused while it is exported or has clones", async () => {
    await using on = await start();
    const uuid = await createLvol(on, "exported");
    const nqn = volumeNqn(PREFIX, randomUUID());
    await createSubsystem(on, nqn);
    const nguid = uuid.replaceAll("-", "").toUpperCase();
    await on.spdk.nvmfSubsystemAddNs({ nqn, bdevName: uuid, nsid: 1, uuid, nguid });
    const exported = { kind: "lvol", name: alias(on, "exported"), uuid };
    expect(await refusal(purge(on, exported))).toMatchObject({ code: 9, reason: "IN_USE" });
    const base = await createLvol(on, "base");
    const lvsUuid = on.store.uuid;
    const snapshot = await on.spdk.bdevLvolSnapshot({
      lvsUuid,
      name: base,
      snapshotName: "snapshot",
    });
    const parent = { kind: "lvol", name: alias(on, "snapshot"), uuid: snapshot };
    expect(await refusal(purge(on, parent))).toMatchObject({ code: 9, reason: "HAS_CLONES" });
    expect(freeSpace(on)).toBe("ZEROED");
    expect(onTarget(on.scenario).lvols).toEqual(["base", "exported", "snapshot"]);
    expect(await purge(on, { kind: "lvol", name: alias(on, "base"), uuid: base })).toEqual({
      done: true,
    });
    expect(await purge(on, parent)).toEqual({ done: true });
  });

  it.each(["before", "midway", "after"] as const)(
    "leaves the free space UNKNOWN when the target dies %s the delete",
    async (when) => {
      await using on = await start();
      const uuid = await createLvol(on, "by-hand", false);
      const { gate } = on.scenario.target.engine();
      const stopped = new Promise((resolve) => (gate.onStopped = resolve));
      gate.stopAt({ when, method: "bdev_lvol_delete", nth: 1 });
      const what = { kind: "lvol", name: alias(on, "by-hand"), uuid };
      const asked = purge(on, what);
      await stopped;
      await on.scenario.target.restart();
      expect(await asked).toEqual({ done: false });
      await on.agent.ready();
      expect(freeSpace(on)).toBe("UNKNOWN");
      expect(await refusal(provision(on.agent, SMALL))).toMatchObject({
        reason: "FREE_SPACE_NOT_ZEROED",
      });
      await until("the purge is done", async () => (await purge(on, what)).done);
    },
  );

  it("is not done because the target was restarted while it waited, and has no store loaded", async () => {
    await using on = await start();
    const { target } = on.scenario;
    const id = randomUUID();
    const orphan = { kind: "lvol", name: alias(on, id), uuid: await createLvol(on, id) };
    target.state().flush();
    const before = target.engine().gate;
    const stopped = new Promise((resolve) => (before.onStopped = resolve));
    before.stopAt({ when: "before", method: "bdev_lvol_delete", nth: 1 });
    const first = purge(on, orphan);
    const again = refusal(purge(on, orphan));
    await stopped;
    await target.restart();
    const { gate } = target.engine();
    gate.addRule(NO_ATTACH);
    expect(await first).toEqual({ done: false });
    expect(await again).toMatchObject({ code: 14, reason: "STORE_LOADING" });
    gate.clear();
    await until("the purge is done", async () => {
      return await purge(on, orphan).then(
        ({ done }) => done,
        () => false,
      );
    });
    expect(onTarget(on.scenario)).toEqual(exactly([]));
  });
});

describe("PurgeOrphan of a subsystem", () => {
  it("removes it, but not while a host is connected, nor a volume's or somebody else's", async () => {
    await using on = await start();
    const nqn = volumeNqn(PREFIX, randomUUID());
    const other = "nqn.2026-11.io.other:x";
    await Promise.all([createSubsystem(on, nqn), createSubsystem(on, other)]);
    const address = {
      trtype: "TCP",
      adrfam: "IPv4",
      traddr: "127.0.0.1",
      trsvcid: "4440",
    } as const;
    const subsystem = on.scenario.target.state().subsystems.get(nqn);
    subsystem?.controllers.push({ cntlid: 1, hostNqn: HOST, address });
    const refused = await refusal(purge(on, { kind: "subsystem", name: nqn }));
    expect(refused).toMatchObject({ code: 9, reason: "IN_USE", metadata: { hosts: HOST } });
    subsystem?.controllers.pop();
    const lvol = await provision(on.agent, SMALL);
    const owned = { kind: "subsystem", name: lvol.status?.nqn ?? "" };
    expect((await refusal(purge(on, owned))).reason).toBe("IN_USE");
    expect((await refusal(purge(on, { ...owned, name: other }))).reason).toBe("NOT_FOUND");
    expect(await purge(on, { kind: "subsystem", name: nqn })).toEqual({ done: true });
    expect(onTarget(on.scenario)).toEqual({ ...exactly([idOf(lvol)]), empty: [other] });
    expect(freeSpace(on)).toBe("ZEROED");
  });
});

describe("Delete of an id without a row", () => {
  it("is refused with ORPHAN_EXISTS while an lvol or a subsystem has that name", async () => {
    await using on = await start();
    const id = randomUUID();
    const uuid = await createLvol(on, id);
    const name = alias(on, id);
    const nqn = volumeNqn(PREFIX, id);
    await createSubsystem(on, nqn);
    const metadata = { kind: "lvol", name, uuid };
    const refused = { code: 9, reason: "ORPHAN_EXISTS" };
    expect(await refusal(remove(on.agent, id))).toMatchObject({ ...refused, metadata });
    expect(await purge(on, metadata)).toEqual({ done: true });
    expect(await refusal(remove(on.agent, id))).toMatchObject({
      ...refused,
      metadata: { kind: "subsystem", name: nqn, uuid: "" },
    });
    expect(await purge(on, { kind: "subsystem", name: nqn })).toEqual({ done: true });
    expect(await remove(on.agent, id)).toEqual({ done: true });
  });

  it("is done only once the target can be asked, and the stores are loaded", async () => {
    await using on = await start();
    const { target } = on.scenario;
    const id = randomUUID();
    await createLvol(on, id);
    target.state().flush();
    const { agent } = on.agent.node;
    target.engine().gate.stopAt({ when: "before", nth: 1 });
    on.scenario.loseConnection();
    await until("the agent has lost the target", () => !agent.ready());
    expect(await refusal(remove(on.agent, id))).toMatchObject({ code: 14, reason: "TARGET_DOWN" });
    await target.restart();
    const { gate } = target.engine();
    const stopped = new Promise((resolve) => (gate.onStopped = resolve));
    gate.stopAt({ when: "before", method: "bdev_nvme_attach_controller", nth: 1 });
    await stopped;
    const loading = { code: 14, reason: "STORE_LOADING" };
    expect(await refusal(remove(on.agent, id))).toMatchObject(loading);
    gate.onStopped = () => {};
    target.resume();
    await on.agent.ready();
    expect((await refusal(remove(on.agent, id))).reason).toBe("ORPHAN_EXISTS");
  });
});

describe("ProvisionLvol of the id of an orphan", () => {
  it("is refused with ORPHAN_EXISTS", async () => {
    await using on = await start();
    const id = randomUUID();
    const uuid = await createLvol(on, id);
    await untilListed(on, [alias(on, id)]);
    const refused = await refusal(provision(on.agent, SMALL, { id }));
    expect(refused).toMatchObject({ code: 9, reason: "ORPHAN_EXISTS", metadata: { uuid } });
  });

  it("that was not known yet ends FAILED; the lvol is not taken over, nor deleted with the volume", async () => {
    await using on = await start(3_600_000);
    const id = randomUUID();
    // Of the very shape that the volume asks for.
    const uuid = await createLvol(on, id);
    const lvol = await provision(on.agent, SMALL, { id });
    expect(stateOf(lvol)).toBe("LVOL_STATE_FAILED");
    expect(lvol.status?.lastError).toMatch(/^ORPHAN_EXISTS: /);
    await untilListed(on, [alias(on, id)]);
    await on.scenario.killAgent();
    const next = await on.scenario.start();
    await next.ready();
    expect(await remove(next, id)).toEqual({ done: true });
    expect(onTarget(on.scenario)).toEqual({ ...exactly([]), lvols: [id] });
    expect((await on.spdk.getBdev(uuid))?.uuid).toBe(uuid);
  });
});
