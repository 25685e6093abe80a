// The typed methods against the simulator or, if STORAGE_NODE_TEST_SPDK_SOCKET and
// STORAGE_NODE_TEST_FABRIC_DISKS are set, a real target, whose last disk is wiped.

import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi, type TestContext } from "vitest";
import { spdkClient, type SpdkClient } from "../../src/spdk/client.ts";
import type { AttachController } from "../../src/spdk/client-bdev.ts";
import { STORE_WINDOW } from "../../src/limits.ts";
import { SpdkConnection } from "../../src/spdk/connection.ts";
import { list, object, text, type Read } from "../../src/spdk/fields.ts";

const GIB = 1_073_741_824n;
const realSocket = process.env["STORAGE_NODE_TEST_SPDK_SOCKET"];
const realDisks = process.env["STORAGE_NODE_TEST_FABRIC_DISKS"];
const real = realSocket !== undefined && realDisks !== undefined;

const address: Read<Omit<AttachController, "name">> = object((disk) => ({
  trtype: disk.get("trtype", text),
  traddr: disk.get("traddr", text),
  trsvcid: disk.optional("trsvcid", text),
  subnqn: disk.optional("subnqn", text),
}));

const cleanup = new AsyncDisposableStack();
const name = `t${process.pid}`;
const nqn = `nqn.2026-11.io.storage-node:${randomUUID()}`;
const listener = { trtype: "TCP", adrfam: "IPv4", traddr: "127.0.0.1", trsvcid: "45420" };
let client: SpdkClient;
let connection: SpdkConnection;
let disk: Omit<AttachController, "name">;
let methods: readonly string[];
let lvsUuid: string;

async function simulator(): Promise<{ readonly socket: string; readonly disks: string }> {
  const folder = await mkdtemp(join(tmpdir(), "spdk-"));
  cleanup.defer(async () => await rm(folder, { recursive: true, force: true }));
  const [socket, disks] = [join(folder, "spdk.sock"), join(folder, "disks.json")];
  const shape = { serial: "SIM1", model: "SIM DISK", block_size: 4096, num_blocks: 2_097_152 };
  await writeFile(disks, JSON.stringify([{ ...shape, trtype: "PCIe", traddr: "0000:01:00.0" }]));
  const args = ["src/main.ts", "sim", "--socket", socket, "--disks", disks, "--strict"];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "ignore", "inherit"] });
  cleanup.defer(async () => {
    if (child.exitCode !== null) return;
    child.kill();
    await once(child, "exit");
  });
  return { socket, disks };
}

beforeAll(async () => {
  const target = real ? { socket: realSocket, disks: realDisks } : await simulator();
  const disks: unknown = JSON.parse(await readFile(target.disks, "utf8"));
  disk = list(address)(disks, { key: "disks" }).at(-1) ?? { trtype: "", traddr: "" };
  connection = cleanup.use(new SpdkConnection({ path: target.socket, mayMutate: () => true }));
  await vi.waitUntil(() => connection.connected, { timeout: 20_000 });
  client = spdkClient(connection);
  methods = await client.rpcGetMethods();
  await client.bdevNvmeAttachController({ name, ...disk });
  // Delete the lvstore that an interrupted run left on the disk.
  for (const store of await client.bdevLvolGetLvstores()) {
    if (store.baseBdev === `${name}n1`) await client.bdevLvolDeleteLvstore(store.uuid);
  }
  lvsUuid = await client.bdevLvolCreateLvstore({
    bdevName: `${name}n1`,
    lvsName: name,
    clusterBytes: 4_194_304n,
    clearMethod: "write_zeroes",
  });
}, 600_000);

afterAll(async () => {
  await client.bdevLvolDeleteLvstore(lvsUuid).catch(() => {});
  await client.bdevNvmeDetachController(name).catch(() => {});
  await cleanup.disposeAsync();
}, 600_000);

async function create(lvolName: string, sizeBytes = GIB): Promise<string> {
  const lvol = { lvsUuid, lvolName, sizeBytes, thin: true };
  return await client.bdevLvolCreate({ ...lvol, clearMethod: "write_zeroes" });
}

/** Skips a test if the simulator lacks one of the methods; a real target must have them all. */
function needs(context: TestContext, ...wanted: readonly string[]): void {
  const missing = wanted.filter((method) => !methods.includes(method));
  context.skip(!real && missing.length > 0, `the simulator has no ${missing.join(", ")}`);
}

describe(`on ${real ? "a real target" : "the simulator (not run on a real target)"}`, () => {
  test("reports its release, the attached disk and the created lvstore", async () => {
    const { release } = await client.capabilities();
    expect(release[0]).toBeGreaterThanOrEqual(24);
    expect((await client.getController(name))?.paths).toMatchObject([
      { state: "enabled", trid: { traddr: disk.traddr } },
    ]);
    expect(await client.getBdev(`${name}n1`)).toMatchObject({
      kind: "nvme",
      claimed: true,
      claimType: "read_many_write_one",
      paths: [{ nsid: 1 }],
    });
    const store = await client.getLvstore({ uuid: lvsUuid });
    expect(store).toMatchObject({ name, baseBdev: `${name}n1`, clusterBytes: 4_194_304n });
    expect(store).toEqual(await client.getLvstore({ name }));
    expect(store?.freeBytes).toBe(store?.totalBytes);
    expect((await client.bdevNvmeGetControllers()).map((one) => one.name)).toContain(name);
  });

  test("reads of absent objects resolve with undefined, and failed changes have the right kind", async () => {
    expect([
      await client.getBdev("none"),
      await client.getController("none"),
      await client.getLvstore({ name: "none" }),
      await client.getLvols({ name: "none" }),
      await client.getSubsystem("nqn.2026-11.io.storage-node:none"),
    ]).toEqual([undefined, undefined, undefined, undefined, undefined]);
    const repeat = { bdevName: `${name}n1`, lvsName: "x", clusterBytes: 4_194_304n };
    await expect(
      client.bdevLvolCreateLvstore({ ...repeat, clearMethod: "none" }),
    ).rejects.toMatchObject({ kind: "not_permitted" });
    const gone = client.bdevLvolDelete({ lvsUuid, name: randomUUID() });
    await expect(gone).rejects.toMatchObject({ kind: "absent" });
    const again = client.bdevNvmeAttachController({ name, ...disk });
    await expect(again).rejects.toMatchObject({ kind: "exists" });
    const other = client.bdevNvmeAttachController({ name: `${name}b`, ...disk });
    await expect(other).rejects.toMatchObject({ kind: "conflict" });
    const host = { nqn: "nqn.2026-11.io.storage-node:none", host: "nqn.2026-11.test:h" };
    await expect(client.nvmfSubsystemAddHost(host)).rejects.toMatchObject({ name: "SpdkError" });
  });

  test("creates, exports and deletes a volume", async () => {
    const uuid = await create("volume");
    await expect(create("volume")).rejects.toMatchObject({ kind: "exists" });
    expect(await client.getBdev(`${name}/volume`)).toMatchObject({
      kind: "lvol",
      uuid,
      sizeBytes: GIB,
      claimed: false,
      lvol: { storeUuid: lvsUuid, thin: true, clone: false, baseSnapshot: undefined },
    });
    expect(await client.getLvols({ uuid: lvsUuid })).toMatchObject([{ uuid, name: "volume" }]);

    const made = await client
      .nvmfCreateTransport({ trtype: "TCP", maskDiscards: false })
      .catch((error: unknown) => error);
    expect([undefined, expect.objectContaining({ kind: "exists" })]).toContainEqual(made);
    expect((await client.nvmfGetTransports()).map(({ trtype }) => trtype)).toEqual(["TCP"]);
    const host = "nqn.2026-11.io.storage-node:host";
    const { hostDiscards } = await client.capabilities();
    const dmrsl = hostDiscards === "subsystem" ? 512 : undefined;
    const facts = { serialNumber: "S1", modelNumber: "storage-node", maxNamespaces: 1 };
    const subsystem = { nqn, ...facts, dmrsl };
    await Promise.all([
      client.nvmfCreateSubsystem(subsystem),
      client.nvmfSubsystemAddHost({ nqn, host }),
      client.nvmfSubsystemAddListener({ nqn, address: listener }),
    ]);
    const nguid = uuid.replaceAll("-", "").toUpperCase();
    const namespace = { nqn, bdevName: uuid, nsid: 1, uuid, nguid };
    expect(await client.nvmfSubsystemAddNs(namespace)).toBe(1);
    await expect(client.nvmfSubsystemAddNs(namespace)).rejects.toMatchObject({ kind: "vague" });
    expect(await client.getSubsystem(nqn)).toEqual({
      nqn,
      subtype: "NVMe",
      listenAddresses: [listener],
      allowAnyHost: false,
      hosts: [host],
      serialNumber: "S1",
      modelNumber: "storage-node",
      maxNamespaces: 1,
      dmrsl,
      namespaces: [{ nsid: 1, bdevName: uuid, uuid, nguid }],
    });
    expect((await client.nvmfGetSubsystems()).map((one) => one.nqn)).toContain(nqn);
    expect(await client.nvmfSubsystemGetControllers(nqn)).toEqual([]);
    expect(await client.getBdev(uuid)).toMatchObject({ claimType: "exclusive_write" });

    await client.nvmfSubsystemAllowAnyHost({ nqn, allowAnyHost: true });
    await client.nvmfSubsystemRemoveHost({ nqn, host });
    await client.nvmfSubsystemRemoveListener({ nqn, address: listener });
    await client.nvmfSubsystemRemoveNs({ nqn, nsid: 1 });
    expect(await client.getSubsystem(nqn)).toMatchObject({
      listenAddresses: [],
      allowAnyHost: true,
      hosts: [],
      namespaces: [],
    });
    await client.nvmfDeleteSubsystem(nqn);
    await client.bdevLvolDelete({ lvsUuid, name: uuid });
    expect(await client.getSubsystem(nqn)).toBeUndefined();
    expect(await client.getBdev(uuid)).toBeUndefined();
  });

  test("creates more lvols at once than SPDK accepts, because the window limits those in flight", async () => {
    const count = 3 * STORE_WINDOW;
    const names = Array.from({ length: count }, (_, n) => `burst${n}`);
    const uuids = await Promise.all(
      names.map(async (lvolName) => await create(lvolName, 4_194_304n)),
    );
    expect(new Set(uuids).size).toBe(count);
    expect((await client.bdevLvolGetLvols()).length).toBe(count);
    await Promise.all(
      uuids.map(async (uuid) => await client.bdevLvolDelete({ lvsUuid, name: uuid })),
    );
    expect(await client.getLvols({ uuid: lvsUuid })).toEqual([]);
  });

  test("resizes, snapshots, clones and inflates an lvol", async (context) => {
    needs(context, "bdev_lvol_resize", "bdev_lvol_snapshot", "bdev_lvol_clone");
    needs(context, "bdev_lvol_inflate", "bdev_lvol_set_read_only");
    const volume = { lvsUuid, name: await create("origin", 8_388_608n) };
    await client.bdevLvolResize({ ...volume, sizeBytes: 16_777_216n });
    const snapshot = await client.bdevLvolSnapshot({ ...volume, snapshotName: "snapshot" });
    const cloned = { lvsUuid, name: snapshot, cloneName: "clone" };
    const clone = await client.bdevLvolClone(cloned);
    expect(await client.getBdev(volume.name)).toMatchObject({
      sizeBytes: 16_777_216n,
      lvol: { clone: true, baseSnapshot: "snapshot" },
    });
    expect(await client.getBdev(snapshot)).toMatchObject({
      lvol: { snapshot: true, clones: expect.arrayContaining(["origin", "clone"]) },
    });
    await expect(client.bdevLvolDelete({ lvsUuid, name: snapshot })).rejects.toMatchObject({
      kind: "not_permitted",
    });
    await client.bdevLvolInflate({ lvsUuid, name: clone });
    expect(await client.getBdev(clone)).toMatchObject({ lvol: { thin: false, clone: false } });
    await client.bdevLvolSetReadOnly({ lvsUuid, name: clone });
    for (const uuid of [clone, volume.name, snapshot]) {
      await client.bdevLvolDelete({ lvsUuid, name: uuid }).catch(() => {});
    }
    expect(await client.getLvols({ uuid: lvsUuid })).toEqual([]);
  });

  test("reads I/O counters, health and events, and limits the QoS of an exported volume", async (context) => {
    needs(context, "bdev_get_iostat", "bdev_nvme_get_controller_health_info");
    needs(context, "bdev_set_qos_limit", "notify_get_notifications");
    const uuid = await create("counted");
    const subsystem = { nqn, serialNumber: "S1", modelNumber: "storage-node", maxNamespaces: 1 };
    await client.nvmfCreateSubsystem(subsystem);
    const nguid = uuid.replaceAll("-", "").toUpperCase();
    await client.nvmfSubsystemAddNs({ nqn, bdevName: uuid, nsid: 1, uuid, nguid });
    await client.bdevSetQosLimit({ name: uuid, rwIosPerSec: 1_500n, wMbytesPerSec: 10n });
    expect((await client.getBdev(uuid))?.rateLimits).toEqual({
      rwIosPerSec: 2_000n,
      rwMbytesPerSec: 0n,
      rMbytesPerSec: 0n,
      wMbytesPerSec: 10n,
    });
    const some = await client.bdevGetIostat([uuid]);
    expect(some.bdevs.map((one) => one.name)).toEqual([uuid]);
    expect(some.tickRate).toBeGreaterThan(0n);
    const all = await client.bdevGetIostat();
    expect(all.bdevs.map((one) => one.name)).toEqual(expect.arrayContaining([uuid, `${name}n1`]));
    const health = await client.bdevNvmeGetControllerHealthInfo(name);
    expect(health.serialNumber).not.toBe("");
    const identified = await client.identifyNamespace({ name, nsid: 1 });
    expect(["not reported", "zeros", "ones"]).toContain(identified?.deallocatedReads);
    const absent = await client.identifyNamespace({ name, nsid: 9 });
    expect(absent).toEqual({ deallocatedReads: "not reported" });
    const events = await client.notifyGetNotifications();
    expect(events).toContainEqual(
      expect.objectContaining({ type: "bdev_register", bdevName: uuid }),
    );
    await client.nvmfDeleteSubsystem(nqn);
    await client.bdevLvolDelete({ lvsUuid, name: uuid });
  });
});
