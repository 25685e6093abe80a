// Volumes end to end: gRPC, a real database and a target. Runs on the simulator, or on the real
// target that STORAGE_NODE_TEST_SPDK_SOCKET names.
import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Provisioning, type LvolSpec } from "../../src/gen/storagenode/v1/lvol.ts";
import { exportSerial } from "../../src/model/identity.ts";
import { call, refusal, startAgent, until, type TestAgent } from "../support/agent.ts";
import { testDatabase, type TestDatabase } from "../support/database.ts";
import { deleteSnapshot, snapshotIdOf, takeSnapshot } from "../support/snapshots.ts";
import { CAN_KILL, REAL_SOCKET, startTarget, type TestTarget } from "../support/target.ts";
import * as volumes from "../support/volumes.ts";

const WAIT = { seconds: 30n, nanos: 0 };
const NO_WAIT = undefined;

let database: TestDatabase;
let target: TestTarget;
let agent: TestAgent;

beforeAll(async () => {
  if (REAL_SOCKET === undefined) process.stdout.write("end-to-end: not run on a real target\n");
  database = await testDatabase();
  target = await startTarget();
  agent = await startAgent({ url: database.url, target });
  await agent.ready();
});

afterAll(async () => {
  await agent?.[Symbol.asyncDispose]();
  await target?.[Symbol.asyncDispose]();
  await database?.[Symbol.asyncDispose]();
});

const provision = (change: Partial<LvolSpec> = {}, id: string = randomUUID()) =>
  volumes.provision(agent, change, { id });
const remove = (id: string) => volumes.remove(agent, id);
const getLvol = (id: string) => volumes.getLvol(agent, id);
const MIB = 1024n * 1024n;
const { idOf, lvolSpec: spec, stateOf, GIB, HOST } = volumes;

describe("a node whose disks are blank", () => {
  it("attaches and formats them with zeroed free space, and lists them UP", async () => {
    const { client } = agent;
    const { disks } = await call(client, client.listDisks.bind(client), {
      pageSize: 0,
      pageToken: "",
    });
    expect(disks.length).toBeGreaterThanOrEqual(2);
    for (const { status } of disks) {
      expect(status?.state).toBe("DISK_STATE_UP");
      expect(status?.lvstore?.freeSpace).toBe("FREE_SPACE_ZEROED");
      expect(status?.lvstore?.uuid).toMatch(/^[0-9a-f-]{36}$/);
      expect(status?.conditions.find(({ type }) => type === "StoreReady")?.status).toBe(
        "CONDITION_STATUS_TRUE",
      );
    }
  });
});

describe("a volume", () => {
  it("has in its row who asked for its last intent, and why a forced deletion was", async () => {
    const id = idOf(await provision());
    const row = async () =>
      (
        await database.query(
          `select actor, delete_forced, delete_reason from lvol where id = '${id}'`,
        )
      )[0];
    const actor = expect.stringMatching(/^tcp:127\.0\.0\.1:\d+$/);
    expect(await row()).toEqual({ actor, delete_forced: false, delete_reason: null });
    await volumes.remove(agent, id, { force: true, reason: "its host is dead" });
    expect(await row()).toEqual({ actor, delete_forced: true, delete_reason: "its host is dead" });
  });

  it("is UP and exported to its host when the waiting call returns", async () => {
    const lvol = await provision();
    expect(stateOf(lvol)).toBe("LVOL_STATE_UP");
    const { client } = agent;
    const { export: exported } = await call(client, client.getExport.bind(client), {
      target: { $case: "lvolId", value: idOf(lvol) },
      hostNqn: HOST,
    });
    expect(exported).toMatchObject({
      nqn: lvol.status?.nqn,
      nsid: 1,
      uuid: idOf(lvol),
      serialNumber: exportSerial(idOf(lvol)),
      ready: true,
      listeners: [{ trtype: "TCP", traddr: "127.0.0.1", trsvcid: "4440", listening: true }],
    });
    const subsystem = await target.spdk.getSubsystem(lvol.status?.nqn ?? "");
    expect(subsystem).toMatchObject({
      allowAnyHost: false,
      hosts: [HOST],
      serialNumber: exported?.serialNumber,
      namespaces: [{ nsid: 1, bdevName: lvol.status?.lvolUuid, uuid: idOf(lvol) }],
    });
  });

  it("is found by its NQN; for a host that is not allowed GetExport says HOST_NOT_ALLOWED", async () => {
    const lvol = await provision();
    const { client } = agent;
    const { export: exported } = await call(client, client.getExport.bind(client), {
      target: { $case: "nqn", value: lvol.status?.nqn ?? "" },
      hostNqn: "nqn.2026-11.io.host:stranger",
    });
    expect(exported).toMatchObject({ lvolId: idOf(lvol), ready: false });
    expect(exported?.conditions.find(({ type }) => type === "Ready")?.reason).toBe(
      "HOST_NOT_ALLOWED",
    );
  });

  it("is returned when provisioned again, and refused with SPEC_MISMATCH for another spec", async () => {
    const first = await provision();
    const again = await provision({}, idOf(first));
    expect(again.status?.lvolUuid).toBe(first.status?.lvolUuid);
    expect(again.meta?.createTime).toEqual(first.meta?.createTime);
    const refused = await refusal(provision({ sizeBytes: 2n * GIB }, idOf(first)));
    expect(refused).toMatchObject({
      code: 6,
      reason: "SPEC_MISMATCH",
      metadata: { fields: "size_bytes" },
    });
  });

  it("leaves no object when deleted, also twice, and its id cannot be used again", async () => {
    const lvol = await provision();
    expect(await remove(idOf(lvol))).toEqual({ done: true });
    expect(await remove(idOf(lvol))).toEqual({ done: true });
    expect(await target.spdk.getBdev(lvol.status?.lvolUuid ?? "")).toBeUndefined();
    expect(await target.spdk.getSubsystem(lvol.status?.nqn ?? "")).toBeUndefined();
    expect(await refusal(provision({}, idOf(lvol)))).toMatchObject({
      code: 9,
      reason: "ID_RETIRED",
    });
    const after = await getLvol(idOf(lvol));
    expect(stateOf(after)).toBe("LVOL_STATE_DELETED");
    expect(after.meta?.deleteTime).toBeInstanceOf(Date);
  });

  it("allows and revokes hosts before the call returns", async () => {
    const lvol = await provision({ allowedHostNqns: [] });
    const nqn = lvol.status?.nqn ?? "";
    const exported = lvol.status?.conditions.find(({ type }) => type === "Exported");
    expect(exported?.reason).toBe("NO_HOSTS_ALLOWED");
    const { client } = agent;
    const change = { lvolId: idOf(lvol), hostNqn: HOST, waitTimeout: WAIT };
    const allowed = await call(client, client.allowHost.bind(client), change);
    expect(allowed.lvol?.spec?.allowedHostNqns).toEqual([HOST]);
    expect((await target.spdk.getSubsystem(nqn))?.hosts).toEqual([HOST]);
    await call(client, client.revokeHost.bind(client), change);
    expect((await target.spdk.getSubsystem(nqn))?.hosts).toEqual([]);
    const again = await call(client, client.revokeHost.bind(client), change);
    expect(stateOf(again.lvol!)).toBe("LVOL_STATE_UP");
  });

  it("rounds its size up to whole clusters and reports the rounded size", async () => {
    const lvol = await provision({ sizeBytes: 5n * 1024n * 1024n + 1n });
    expect(lvol.spec?.sizeBytes).toBe(5n * 1024n * 1024n + 1n);
    expect(lvol.status?.sizeBytes).toBe(8n * 1024n * 1024n);
    const bdev = await target.spdk.getBdev(lvol.status?.lvolUuid ?? "");
    expect(bdev?.sizeBytes).toBe(8n * 1024n * 1024n);
  });

  it("grows while it is exported, as the target shows, and also after a restart", async () => {
    const lvol = await provision({ sizeBytes: 64n * MIB });
    const { lvolUuid = "", nqn = "" } = lvol.status ?? {};
    const grown = await volumes.resize(agent, idOf(lvol), 129n * MIB);
    expect(stateOf(grown)).toBe("LVOL_STATE_UP");
    expect(grown.status).toMatchObject({ sizeBytes: 132n * MIB, lvolUuid });
    expect((await target.spdk.getBdev(lvolUuid))?.sizeBytes).toBe(132n * MIB);
    expect((await target.spdk.getSubsystem(nqn))?.namespaces).toMatchObject([
      { nsid: 1, bdevName: lvolUuid, uuid: idOf(lvol) },
    ]);
    const refused = await refusal(volumes.resize(agent, idOf(lvol), 64n * MIB));
    expect(refused).toMatchObject({ code: 11, reason: "SHRINK_REFUSED" });
    if (!CAN_KILL) return;
    await target.restart();
    await until("it is UP", async () => stateOf(await getLvol(idOf(lvol))) === "LVOL_STATE_UP");
    expect((await target.spdk.getBdev(lvolUuid))?.sizeBytes).toBe(132n * MIB);
  });

  it("has the limits that were asked for, as the target has rounded them, also after a restart", async () => {
    const none = { rwIops: 0n, rwMibPerSecond: 0n, readMibPerSecond: 0n, writeMibPerSecond: 0n };
    const qos = { ...none, rwIops: 1_500n, writeMibPerSecond: 3n };
    const lvol = await provision({ sizeBytes: 64n * MIB, qos });
    const { lvolUuid = "" } = lvol.status ?? {};
    const limits = async () => (await target.spdk.getBdev(lvolUuid))?.rateLimits;
    const real = { rwIosPerSec: 2_000n, rwMbytesPerSec: 0n, rMbytesPerSec: 0n, wMbytesPerSec: 3n };
    expect(lvol.status?.qos).toEqual({ ...qos, rwIops: 2_000n });
    expect(await limits()).toEqual(real);
    const changed = await volumes.update(agent, idOf(lvol), {
      qos: { ...none, rwMibPerSecond: 7n },
    });
    expect(changed.status?.qos).toEqual({ ...none, rwMibPerSecond: 7n });
    const other = { rwIosPerSec: 0n, rwMbytesPerSec: 7n, rMbytesPerSec: 0n, wMbytesPerSec: 0n };
    expect(await limits()).toEqual(other);
    if (CAN_KILL) {
      await target.restart();
      await until("they are in force", async () => (await limits())?.rwMbytesPerSec === 7n);
      expect(await limits()).toEqual(other);
    }
    expect((await volumes.update(agent, idOf(lvol), { qos: none })).status?.qos).toEqual(none);
    expect((await limits())?.rwMbytesPerSec).toBe(0n);
  });

  it("can be provisioned without waiting, and validated without being created", async () => {
    const { client } = agent;
    const id = randomUUID();
    const dry = { id, spec: spec(), waitTimeout: NO_WAIT, validateOnly: true };
    const { lvol } = await call(client, client.provisionLvol.bind(client), dry);
    expect(lvol?.status?.diskId).not.toBe("");
    expect((await refusal(call(client, client.getLvol.bind(client), { lvolId: id }))).code).toBe(5);
    const made = await call(client, client.provisionLvol.bind(client), {
      ...dry,
      validateOnly: false,
    });
    expect(made.lvol?.meta?.id).toBe(id);
    await until("it is UP", async () => stateOf(await getLvol(id)) === "LVOL_STATE_UP");
  });

  it("is DATA_MISSING, and not replaced by an empty one, when its lvol is deleted externally", async () => {
    const lvol = await provision();
    const { lvolUuid = "", nqn = "", diskId = "" } = lvol.status ?? {};
    const store = agent.node.agent.rows.disk(diskId)?.lvsUuid ?? "";
    await target.spdk.nvmfSubsystemRemoveNs({ nqn, nsid: 1 });
    await target.spdk.bdevLvolDelete({ lvsUuid: store, name: lvolUuid });
    const isMissing = async () => stateOf(await getLvol(idOf(lvol))) === "LVOL_STATE_DATA_MISSING";
    await until("it is DATA_MISSING", isMissing);
    await target.restart();
    await until("it still is", isMissing);
    expect(await target.spdk.getBdev(lvolUuid)).toBeUndefined();
    const lvols = await target.spdk.bdevLvolGetLvols();
    expect(lvols.filter(({ name }) => name === idOf(lvol))).toEqual([]);
    expect(await remove(idOf(lvol))).toEqual({ done: true });
  });
});

describe("an object that the agent did not create", () => {
  it("is not changed: a subsystem, a namespace and an lvol in an lvstore of the agent", async () => {
    const { lvsUuid = "" } = [...agent.node.agent.rows.disks()][0] ?? {};
    const nqn = "nqn.2026-11.io.other:volume";
    const uuid = await target.spdk.bdevLvolCreate({
      lvsUuid,
      lvolName: "foreign-lvol",
      sizeBytes: 8n * 1024n * 1024n,
      thin: true,
      clearMethod: "write_zeroes",
    });
    await target.spdk.nvmfCreateSubsystem({
      nqn,
      serialNumber: "OTHER",
      modelNumber: "OTHER",
      maxNamespaces: 1,
    });
    await target.spdk.nvmfSubsystemAddNs({
      nqn,
      bdevName: uuid,
      nsid: 1,
      uuid,
      nguid: uuid.replaceAll("-", "").toUpperCase(),
    });
    const lvol = await provision();
    await remove(idOf(lvol));
    expect((await target.spdk.getSubsystem(nqn))?.namespaces).toMatchObject([{ bdevName: uuid }]);
    expect((await target.spdk.getBdev(uuid))?.uuid).toBe(uuid);
    await target.spdk.nvmfDeleteSubsystem(nqn);
    await target.spdk.bdevLvolDelete({ lvsUuid, name: uuid });
  });
});

describe("bad input", () => {
  it("is refused with INVALID_FIELD, and changes nothing", async () => {
    const { client } = agent;
    const before = agent.node.agent.rows.node?.revision;
    const request = {
      id: "NOT-A-UUID",
      spec: spec({ sizeBytes: 0n, provisioning: "UNRECOGNIZED", allowedHostNqns: ["host"] }),
      waitTimeout: { seconds: -1n, nanos: 0 },
      validateOnly: false,
    };
    const refused = await refusal(call(client, client.provisionLvol.bind(client), request));
    expect(refused).toMatchObject({ code: 3, reason: "INVALID_FIELD" });
    expect(agent.node.agent.rows.node?.revision).toBe(before);
  });

  it.each([
    ["2^63 bytes", { sizeBytes: 2n ** 63n }, 11],
    ["more than any disk has", { sizeBytes: 2n ** 50n }, 11],
    ["a disk that does not exist", { diskId: randomUUID() }, 5],
    ["a clone of a snapshot that does not exist", { sourceSnapshotId: randomUUID() }, 5],
  ])("of %s is refused", async (_what, change, code) => {
    expect((await refusal(provision(change))).code).toBe(code);
  });

  it("of an unknown id is NOT_FOUND for reads and done for a deletion", async () => {
    expect(await refusal(getLvol(randomUUID()))).toMatchObject({ code: 5, reason: "NOT_FOUND" });
    expect(await remove(randomUUID())).toEqual({ done: true });
  });

  it("of a volume that does not fit on its disk is refused with NO_CAPACITY", async () => {
    const { client } = agent;
    const { disks } = await call(client, client.listDisks.bind(client), {
      pageSize: 0,
      pageToken: "",
    });
    const total = disks[0]?.status?.lvstore?.totalBytes ?? 0n;
    const diskId = disks[0]?.meta?.id ?? "";
    const made: string[] = [];
    let refused;
    while (refused === undefined && made.length < 8) {
      const id = randomUUID();
      const request = {
        id,
        spec: spec({ sizeBytes: total, diskId }),
        waitTimeout: NO_WAIT,
        validateOnly: false,
      };
      try {
        await call(client, client.provisionLvol.bind(client), request);
        made.push(id);
      } catch (error) {
        refused = await refusal(Promise.reject(error));
      }
    }
    expect(refused).toMatchObject({ code: 8, reason: "NO_CAPACITY" });
    for (const id of made) expect(await remove(id)).toEqual({ done: true });
  });
});

describe("a snapshot", () => {
  it("is cloned, outlives its volume, and goes with its last clone", async () => {
    const sizeBytes = GIB / 4n;
    const source = await provision({ sizeBytes });
    const snapshot = await takeSnapshot(agent, idOf(source));
    const id = snapshotIdOf(snapshot);
    expect(snapshot.status?.state).toBe("SNAPSHOT_STATE_UP");
    const thick = Provisioning.PROVISIONING_THICK;
    const cloned = { sourceSnapshotId: id, sizeBytes };
    const [small, large, full] = await Promise.all([
      provision(cloned),
      provision({ ...cloned, sizeBytes: 2n * sizeBytes }),
      provision({ ...cloned, provisioning: thick }),
    ]);
    expect([small, large, full].map(stateOf)).toEqual(Array(3).fill("LVOL_STATE_UP"));
    expect(large.status?.sizeBytes).toBe(2n * sizeBytes);
    expect(full.status?.thin).toBe(false);
    expect((await refusal(deleteSnapshot(agent, id))).reason).toBe("HAS_CLONES");
    const deferred = { deferred: true, wait: false };
    expect(await deleteSnapshot(agent, id, deferred)).toEqual({ done: false });
    for (const lvol of [source, small, full]) await remove(idOf(lvol));
    expect(await deleteSnapshot(agent, id)).toEqual({ done: true });
    expect(stateOf(await getLvol(idOf(large)))).toBe("LVOL_STATE_UP");
    await remove(idOf(large));
  });
});
