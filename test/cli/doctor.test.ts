// `storage-node doctor`: says what is missing on a node, and changes nothing.
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { z } from "zod";
import { LocalLock } from "../../src/local/local-lock.ts";
import { testDatabase, type TestDatabase } from "../support/database.ts";
import { storageNode } from "../support/explain.ts";
import { kernelScenario, type KernelScenario } from "../support/kernel-scenario.ts";
import { REAL_SOCKET, startTarget, type TestTarget } from "../support/target.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const checks = z.array(
  z.object({ name: z.string(), verdict: z.string(), found: z.string(), cure: z.string() }),
);

const stack = new AsyncDisposableStack();
let kernel: KernelScenario;
let database: TestDatabase;
let target: TestTarget;
let folder: string;

beforeAll(async () => {
  kernel = stack.use(await kernelScenario());
  database = stack.use(await testDatabase());
  target = stack.use(await startTarget());
  folder = stack.use(await temporaryFolder()).path;
});

afterAll(async () => await stack.disposeAsync());

function environment(change: Readonly<Record<string, string>> = {}) {
  return {
    DATABASE_URL: database.url,
    STORAGE_NODE_ID: "node-1",
    STORAGE_NODE_SPDK_SOCKET: target.socket,
    STORAGE_NODE_ROOT: kernel.root,
    STORAGE_NODE_STATE_DIR: join(folder, "state", "of-node"),
    ...change,
  };
}

async function examined(change: Readonly<Record<string, string>> = {}) {
  const { code, out } = await storageNode(["doctor", "--output", "json"], {
    env: environment(change),
  });
  const found = checks.parse(JSON.parse(out));
  return {
    code,
    missing: found.filter(({ verdict }) => verdict === "MISSING").map(({ name }) => name),
    of: (name: string) => found.find((check) => check.name === name),
  };
}

it.skipIf(REAL_SOCKET !== undefined)(
  "finds nothing missing on a node that is set up, and has changed nothing there",
  async () => {
    await using control = await target.control();
    await control.resetCounts();
    const { code, out, err } = await storageNode(["doctor"], { env: environment() });
    expect({ code, err }).toEqual({ code: 0, err: "" });
    expect(out).toMatch(/^ok {7}settings +node node-1 of fleet default$/m);
    expect(out).toMatch(/^ok {7}hugepages +1024 of 2 MiB; 2 GiB of 2 GiB free$/m);
    expect(out).toMatch(/\nnothing is missing\n?$/);
    expect(Object.keys(await control.counts()).toSorted()).toEqual([
      "framework_get_reactors()",
      "spdk_get_version()",
    ]);
    expect(await readdir(folder)).toEqual([]);
  },
);

it.skipIf(REAL_SOCKET !== undefined)(
  "names the command for a database without the schema, and makes none",
  async () => {
    await using empty = await testDatabase({ migrated: false });
    const { code, missing, of } = await examined({ DATABASE_URL: empty.url });
    expect({ code, missing }).toEqual({ code: 1, missing: ["database"] });
    expect(of("database")).toMatchObject({
      found: expect.stringMatching(/lacks 000001_init.sql/),
      cure: "storage-node migrate, once for the fleet",
    });
    expect(await empty.query("select from pg_tables where schemaname = 'public'")).toEqual([]);
  },
);

it("names all that is missing at once", async () => {
  await using bare = await kernelScenario({
    drives: kernelDrives(),
    iommu: false,
    vfioPci: false,
    hugepages: 16,
  });
  const { code, missing, of } = await examined({
    DATABASE_URL: `postgresql:///x?host=${folder}`,
    STORAGE_NODE_SPDK_SOCKET: join(folder, "no.sock"),
    STORAGE_NODE_ROOT: bare.root,
  });
  expect(code).toBe(1);
  expect(missing).toEqual(["database", "target", "hugepages", "IOMMU", "vfio-pci", "/dev/vfio"]);
  expect(of("vfio-pci")?.cure).toContain("modprobe vfio-pci");
});

function kernelDrives() {
  const namespaces = [{ sizeBytes: 64n * 1024n ** 2n }];
  return [{ address: "0000:04:00.0", serial: "S", model: "M", iommuGroup: "1", namespaces }];
}

it("checks the machine also where the settings are wrong", async () => {
  const { code, missing, of } = await examined({ STORAGE_NODE_LISTEN: "nowhere" });
  expect({ code, missing }).toEqual({ code: 1, missing: ["settings"] });
  expect(of("settings")?.found).toContain("STORAGE_NODE_LISTEN: must be HOST:PORT");
  expect(of("IOMMU")?.verdict).toBe("OK");
});

it("advises an allow list where the policy admits nothing without one", async () => {
  const { of } = await examined({ STORAGE_NODE_DISK_POLICY: "auto" });
  expect(of("allow list")).toMatchObject({ verdict: "ADVICE", found: /^0 of 2 / });
  const allowed = { STORAGE_NODE_DISK_POLICY: "auto", STORAGE_NODE_DISK_ALLOW: "serial:SIMA" };
  expect((await examined(allowed)).of("allow list")).toMatchObject({ verdict: "OK" });
});

it("says which process has the lock of the node, and leaves it alone", async () => {
  const socket = join(folder, "s");
  using lock = new LocalLock(socket);
  expect(lock.hold()).toBe(true);
  const { of } = await examined({ STORAGE_NODE_SPDK_SOCKET: socket, STORAGE_NODE_ROOT: "/" });
  expect(of("lock file")).toMatchObject({ verdict: "OK" });
  expect(of("lock file")?.found).toContain(`held by the agent with pid ${process.pid}`);
  expect(lock.hold()).toBe(true);
});

it("refuses arguments that it does not have", async () => {
  expect(await storageNode(["doctor", "now"])).toMatchObject({ code: 64, out: "" });
  expect(await storageNode(["doctor", "--output", "xml"])).toMatchObject({ code: 64 });
  expect((await storageNode(["doctor", "--help"])).out).toContain("usage: storage-node doctor");
});
