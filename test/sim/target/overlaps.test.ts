// Overlapping changes: what crashes a real target always aborts the simulated one, with a message
// that names both requests; what a real one survives has the same outcome
// (docs/spdk-contract.md#overlaps). With --strict, requests that an agent must never send abort
// too.
import { describe, expect, it } from "vitest";
import { spdkClient, type SpdkClient } from "../../../src/spdk/client.ts";
import { SpdkConnection } from "../../../src/spdk/connection.ts";
import { simulator, type Simulator } from "./simulator.ts";

const MIB = 1024n * 1024n;
const ABORTED = 70;

type Scenario = AsyncDisposable & {
  readonly sim: Simulator;
  readonly spdk: SpdkClient;
  readonly lvsUuid: string;
  readonly create: (lvolName: string) => Promise<string>;
  readonly attach: () => Promise<unknown>;
  /** Sends changes in one write; returns "ok" or the error of each. */
  readonly together: (...calls: readonly (() => Promise<unknown>)[]) => Promise<readonly string[]>;
};

async function scenario(args: readonly string[] = []): Promise<Scenario> {
  const stack = new AsyncDisposableStack();
  const sim = stack.use(await simulator({ args }));
  const connection = stack.use(new SpdkConnection({ path: sim.socketPath, mayMutate: () => true }));
  await new Promise<void>((resolve) => void connection.onConnected(resolve));
  const spdk = spdkClient(connection);
  await spdk.capabilities();
  const [disk] = sim.disks;
  const attach = () =>
    spdk.bdevNvmeAttachController({
      name: "nvme0",
      trtype: "TCP",
      traddr: "127.0.0.1",
      adrfam: "IPv4",
      trsvcid: disk?.["trsvcid"],
      subnqn: disk?.["subnqn"],
    });
  await attach();
  const lvsUuid = await spdk.bdevLvolCreateLvstore({
    bdevName: "nvme0n1",
    lvsName: "lvs0",
    clusterBytes: MIB,
    clearMethod: "write_zeroes",
  });
  return {
    sim,
    spdk,
    lvsUuid,
    attach,
    create: (lvolName) =>
      spdk.bdevLvolCreate({
        lvsUuid,
        lvolName,
        sizeBytes: 8n * MIB,
        thin: true,
        clearMethod: "write_zeroes",
      }),
    together: async (...calls) => {
      const ends = await Promise.allSettled(calls.map(async (call) => await call()));
      return ends.map((end) => (end.status === "fulfilled" ? "ok" : String(end.reason)));
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

async function aborted({ sim }: Scenario): Promise<string> {
  const { code, stderr } = await sim.ended();
  expect(code).toBe(ABORTED);
  return stderr;
}

describe("changes of one lvol that overlap", () => {
  it("abort when a resize overlaps a delete, with a message that names both requests", async () => {
    await using setup = await scenario();
    const { spdk, lvsUuid, create } = setup;
    const name = await create("v");
    void setup.together(
      () => spdk.bdevLvolDelete({ lvsUuid, name }),
      () => spdk.bdevLvolResize({ lvsUuid, name, sizeBytes: 16n * MIB }),
    );
    const message = await aborted(setup);
    expect(message).toMatch(
      /bdev_lvol_resize \(id \d+, lvs0\/v\) started while bdev_lvol_delete \(id/,
    );
  });

  it("abort when a snapshot overlaps a delete", async () => {
    await using setup = await scenario();
    const { spdk, lvsUuid, create } = setup;
    const name = await create("v");
    void setup.together(
      () => spdk.bdevLvolSnapshot({ lvsUuid, name, snapshotName: "s" }),
      () => spdk.bdevLvolDelete({ lvsUuid, name }),
    );
    expect(await aborted(setup)).toContain("bdev_lvol_snapshot");
  });

  it("abort when an lvol is created while its store is deleted", async () => {
    await using setup = await scenario();
    const { spdk, lvsUuid, create } = setup;
    await create("first");
    void setup.together(
      () => create("second"),
      () => spdk.bdevLvolDeleteLvstore(lvsUuid),
    );
    expect(await aborted(setup)).toContain("bdev_lvol_delete_lvstore");
  });

  it("fail the second of two deletes as busy, and the lvol is deleted", async () => {
    await using setup = await scenario();
    const { spdk, lvsUuid, create } = setup;
    const name = await create("v");
    const ends = await setup.together(
      () => spdk.bdevLvolDelete({ lvsUuid, name }),
      () => spdk.bdevLvolDelete({ lvsUuid, name }),
    );
    expect(ends.filter((end) => end === "ok")).toHaveLength(1);
    expect(await spdk.bdevLvolGetLvols()).toEqual([]);
  });

  it("keep an lvol on the disk when its delete overlaps an inflate: the next attach loads it", async () => {
    await using setup = await scenario();
    const { spdk, lvsUuid, create } = setup;
    const name = await create("v");
    const ends = await setup.together(
      () => spdk.bdevLvolInflate({ lvsUuid, name }),
      () => spdk.bdevLvolDelete({ lvsUuid, name }),
    );
    expect(ends[1]).toContain("busy");
    expect(await spdk.bdevLvolGetLvols()).toEqual([]);
    await spdk.bdevNvmeDetachController("nvme0");
    await setup.attach();
    expect(await spdk.bdevLvolGetLvols()).toMatchObject([{ uuid: name, name: "v" }]);
  });

  it("refuse the later of two changes of limits, as long as the first is under way", async () => {
    await using setup = await scenario(["--strict"]);
    const { spdk, create } = setup;
    const name = await create("v");
    const nqn = "nqn.2026-11.io.test:v";
    await spdk.nvmfCreateSubsystem({ nqn, serialNumber: "S", modelNumber: "M", maxNamespaces: 1 });
    await spdk.nvmfSubsystemAddNs({
      nqn,
      bdevName: name,
      nsid: 1,
      uuid: name,
      nguid: name.replaceAll("-", "").toUpperCase(),
    });
    const limit = (rwIosPerSec: bigint) => spdk.bdevSetQosLimit({ name, rwIosPerSec });
    const [first, second] = await setup.together(
      () => limit(2_000n),
      () => limit(5_000n),
    );
    expect(first).toBe("ok");
    expect(second).toContain("busy");
    await limit(5_000n);
    expect((await spdk.getBdev(name))?.rateLimits.rwIosPerSec).toBe(5_000n);
  });

  it("succeed between unrelated lvols, fifty at a time", async () => {
    await using setup = await scenario(["--strict"]);
    const names = Array.from({ length: 50 }, (_, index) => `v${index}`);
    const uuids = await Promise.all(names.map((name) => setup.create(name)));
    const { spdk, lvsUuid } = setup;
    await Promise.all(uuids.map((name) => spdk.bdevLvolDelete({ lvsUuid, name })));
    expect(await spdk.bdevLvolGetLvols()).toEqual([]);
  });
});

describe("a strict target", () => {
  it("aborts on two changes of one clone family in flight", async () => {
    await using setup = await scenario(["--strict"]);
    const { spdk, lvsUuid, create } = setup;
    const name = await create("v");
    void setup.together(
      () => spdk.bdevLvolDelete({ lvsUuid, name }),
      () => spdk.bdevLvolDelete({ lvsUuid, name }),
    );
    expect(await aborted(setup)).toContain("two changes of one family in flight");
  });

  it("aborts on the deletion of a snapshot that is being made a parent", async () => {
    await using setup = await scenario(["--strict"]);
    const { spdk, lvsUuid, create } = setup;
    const [source, name] = [await create("source"), await create("clone")];
    const parentName = await spdk.bdevLvolSnapshot({ lvsUuid, name: source, snapshotName: "s" });
    void setup.together(
      () => spdk.bdevLvolSetParent({ lvsUuid, name, parentName }),
      () => spdk.bdevLvolDelete({ lvsUuid, name: parentName }),
    );
    expect(await aborted(setup)).toContain("two changes of one family in flight");
  });

  it.each([
    ["shrinks", "a shrink"],
    ["exported", "the delete of an exported lvol"],
    ["lvols", "the deletion of a store with lvols"],
    ["read-only", "the rename of a read-only lvol"],
    ["malformed", "a malformed request"],
  ])("aborts with a message that contains %j on %s", async (word) => {
    await using setup = await scenario(["--strict"]);
    const { spdk, lvsUuid, create } = setup;
    const name = await create("v");
    const nqn = "nqn.2026-11.io.test:v";
    const raw = (method: string, params: Readonly<Record<string, unknown>>) =>
      setup.together(() => rawCall(setup, method, params));
    switch (word) {
      case "shrinks":
        void setup.together(() => spdk.bdevLvolResize({ lvsUuid, name, sizeBytes: MIB }));
        break;
      case "exported":
        await spdk.nvmfCreateSubsystem({
          nqn,
          serialNumber: "S",
          modelNumber: "M",
          maxNamespaces: 1,
        });
        await spdk.nvmfSubsystemAddNs({
          nqn,
          bdevName: name,
          nsid: 1,
          uuid: name,
          nguid: "0".repeat(32),
        });
        void setup.together(() => spdk.bdevLvolDelete({ lvsUuid, name }));
        break;
      case "lvols":
        void setup.together(() => spdk.bdevLvolDeleteLvstore(lvsUuid));
        break;
      case "read-only":
        await spdk.bdevLvolSetReadOnly({ lvsUuid, name });
        void raw("bdev_lvol_rename", { old_name: name, new_name: "w" });
        break;
      default:
        void raw("bdev_lvol_delete", { nmae: name });
    }
    expect(await aborted(setup)).toContain(word);
  });
});

/** Sends a request that the typed client cannot express. */
async function rawCall({ sim }: Scenario, method: string, params: object): Promise<void> {
  await using connection = new SpdkConnection({ path: sim.socketPath, mayMutate: () => true });
  await new Promise<void>((resolve) => void connection.onConnected(resolve));
  await connection.call(method, { ...params }, { waitMs: 10_000 }).outcome;
}
