// What crashes a real target aborts the simulated one, always and by name; what a real one survives
// comes out as it does there (CONTRACT section 9). With --strict, so does what no agent may send.
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
  /** Changes sent in one write; how each ended. */
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
  it("abort when a resize meets a delete, naming both requests", async () => {
    await using there = await scenario();
    const { spdk, lvsUuid, create } = there;
    const name = await create("v");
    void there.together(
      () => spdk.bdevLvolDelete({ lvsUuid, name }),
      () => spdk.bdevLvolResize({ lvsUuid, name, sizeBytes: 16n * MIB }),
    );
    const said = await aborted(there);
    expect(said).toMatch(
      /bdev_lvol_resize \(id \d+, lvs0\/v\) started while bdev_lvol_delete \(id/,
    );
  });

  it("abort when a snapshot meets a delete", async () => {
    await using there = await scenario();
    const { spdk, lvsUuid, create } = there;
    const name = await create("v");
    void there.together(
      () => spdk.bdevLvolSnapshot({ lvsUuid, name, snapshotName: "s" }),
      () => spdk.bdevLvolDelete({ lvsUuid, name }),
    );
    expect(await aborted(there)).toContain("bdev_lvol_snapshot");
  });

  it("abort when lvols are made while their store goes", async () => {
    await using there = await scenario();
    const { spdk, lvsUuid, create } = there;
    await create("first");
    void there.together(
      () => create("second"),
      () => spdk.bdevLvolDeleteLvstore(lvsUuid),
    );
    expect(await aborted(there)).toContain("bdev_lvol_delete_lvstore");
  });

  it("end with the second busy when both are deletes, and the lvol is gone", async () => {
    await using there = await scenario();
    const { spdk, lvsUuid, create } = there;
    const name = await create("v");
    const ends = await there.together(
      () => spdk.bdevLvolDelete({ lvsUuid, name }),
      () => spdk.bdevLvolDelete({ lvsUuid, name }),
    );
    expect(ends.filter((end) => end === "ok")).toHaveLength(1);
    expect(await spdk.bdevLvolGetLvols()).toEqual([]);
  });

  it("leave an lvol on the disk whose delete met an inflate: it is back at the next attach", async () => {
    await using there = await scenario();
    const { spdk, lvsUuid, create } = there;
    const name = await create("v");
    const ends = await there.together(
      () => spdk.bdevLvolInflate({ lvsUuid, name }),
      () => spdk.bdevLvolDelete({ lvsUuid, name }),
    );
    expect(ends[1]).toContain("busy");
    expect(await spdk.bdevLvolGetLvols()).toEqual([]);
    await spdk.bdevNvmeDetachController("nvme0");
    await there.attach();
    expect(await spdk.bdevLvolGetLvols()).toMatchObject([{ uuid: name, name: "v" }]);
  });

  it("are harmless between unrelated lvols, fifty at a time", async () => {
    await using there = await scenario(["--strict"]);
    const names = Array.from({ length: 50 }, (_, index) => `v${index}`);
    const uuids = await Promise.all(names.map((name) => there.create(name)));
    const { spdk, lvsUuid } = there;
    await Promise.all(uuids.map((name) => spdk.bdevLvolDelete({ lvsUuid, name })));
    expect(await spdk.bdevLvolGetLvols()).toEqual([]);
  });
});

describe("a strict target", () => {
  it("aborts on any two changes of one family", async () => {
    await using there = await scenario(["--strict"]);
    const { spdk, lvsUuid, create } = there;
    const name = await create("v");
    void there.together(
      () => spdk.bdevLvolDelete({ lvsUuid, name }),
      () => spdk.bdevLvolDelete({ lvsUuid, name }),
    );
    expect(await aborted(there)).toContain("two changes of one family in flight");
  });

  it.each([
    ["shrinks", "a shrink"],
    ["exported", "the delete of an exported lvol"],
    ["lvols", "the deletion of a store with lvols"],
    ["read-only", "the rename of a read-only lvol"],
    ["malformed", "a malformed request"],
  ])("aborts (%s) on %s", async (word) => {
    await using there = await scenario(["--strict"]);
    const { spdk, lvsUuid, create } = there;
    const name = await create("v");
    const nqn = "nqn.2026-11.io.test:v";
    const raw = (method: string, params: Readonly<Record<string, unknown>>) =>
      there.together(() => rawCall(there, method, params));
    switch (word) {
      case "shrinks":
        void there.together(() => spdk.bdevLvolResize({ lvsUuid, name, sizeBytes: MIB }));
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
        void there.together(() => spdk.bdevLvolDelete({ lvsUuid, name }));
        break;
      case "lvols":
        void there.together(() => spdk.bdevLvolDeleteLvstore(lvsUuid));
        break;
      case "read-only":
        await spdk.bdevLvolSetReadOnly({ lvsUuid, name });
        void raw("bdev_lvol_rename", { old_name: name, new_name: "w" });
        break;
      default:
        void raw("bdev_lvol_delete", { nmae: name });
    }
    expect(await aborted(there)).toContain(word);
  });
});

/** A request that no typed method would send. */
async function rawCall({ sim }: Scenario, method: string, params: object): Promise<void> {
  await using connection = new SpdkConnection({ path: sim.socketPath, mayMutate: () => true });
  await new Promise<void>((resolve) => void connection.onConnected(resolve));
  await connection.call(method, { ...params }, { waitMs: 10_000 }).outcome;
}
