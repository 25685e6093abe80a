// Old bytes that a host reads from blocks it did not write: the reason why an agent must zero free
// space. As measured on a real target (docs/spdk-contract.md#old-bytes), on disks that were used
// before.
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { spdkClient, type SpdkClient } from "../../../src/spdk/client.ts";
import { SpdkConnection } from "../../../src/spdk/connection.ts";
import { SpdkError } from "../../../src/spdk/errors.ts";
import { Control } from "../../support/control.ts";
import { simulator } from "./simulator.ts";

const MIB = 1024n * 1024n;
const PAGE = 4096;
const CLUSTER = Number(MIB);
/** Byte that fills the disk before a store is created. */
const OLD = 0xa5;
type Clear = "none" | "unmap" | "write_zeroes";

type Scenario = AsyncDisposable & {
  /** Kills the target, restarts it over the same disks and attaches the disk. */
  readonly restart: () => Promise<void>;
  readonly spdk: () => SpdkClient;
  readonly lvsUuid: string;
  readonly make: (name: string, thin: boolean, clear: Clear) => Promise<string>;
  readonly write: (lvol: string, offset: number, byte: number) => Promise<void>;
  /** The distinct bytes in a page of an lvol. */
  readonly found: (lvol: string, offset: number) => Promise<readonly number[]>;
  readonly control: () => Promise<Control>;
};

async function scenario(
  clearMethod: Clear,
  facts: { readonly unmap?: "keeps" | "zeroes" } = {},
): Promise<Scenario> {
  await using stack = new AsyncDisposableStack();
  const disks = [{ block_size: 4096, num_blocks: 16_384, prefill: OLD, ...facts }];
  const sim = stack.use(await simulator({ disks }));
  const connections: SpdkConnection[] = [];
  stack.defer(async () => {
    for (const connection of connections) await connection[Symbol.asyncDispose]();
  });
  const attached = async () => {
    const path = sim.socketPath;
    const connection = new SpdkConnection({ path, mayMutate: () => true });
    connections.push(connection);
    await new Promise<void>((resolve) => void connection.onConnected(resolve));
    const spdk = spdkClient(connection);
    const [{ trsvcid, subnqn } = {}] = sim.disks;
    const at = { trtype: "TCP", adrfam: "IPv4", traddr: "127.0.0.1", trsvcid, subnqn } as const;
    await spdk.bdevNvmeAttachController({ name: "nvme0", ...at });
    return spdk;
  };
  let spdk = await attached();
  const lvsUuid = await spdk.bdevLvolCreateLvstore({
    bdevName: "nvme0n1",
    lvsName: "lvs0",
    clusterBytes: MIB,
    clearMethod,
  });
  const control = async () => await Control.open(join(sim.folder, "control"));
  const withControl = async <T>(act: (one: Control) => Promise<T>) => {
    await using one = await control();
    return await act(one);
  };
  const owned = stack.move();
  return {
    restart: async () => {
      await sim.restart();
      spdk = await attached();
    },
    spdk: () => spdk,
    lvsUuid,
    make: (lvolName, thin, clear) =>
      spdk.bdevLvolCreate({ lvsUuid, lvolName, sizeBytes: 8n * MIB, thin, clearMethod: clear }),
    write: (lvol, offset, byte) =>
      withControl((one) => one.write(lvol, offset, Buffer.alloc(PAGE, byte))),
    found: async (lvol, offset) => {
      const bytes = await withControl((one) => one.read(lvol, offset, PAGE));
      return [...new Set(bytes)];
    },
    control,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

describe("on a disk that was used before, without zeroing", () => {
  it.each(["none", "unmap", "write_zeroes"] as const)(
    "a thick lvol shows the old bytes with clear method %s",
    async (clear) => {
      await using one = await scenario("none");
      const lvol = await one.make("a", false, clear);
      expect(await one.found(lvol, 0)).toEqual([OLD]);
    },
  );

  it("a thin lvol reads zeros; a write allocates a cluster whose other pages show old bytes", async () => {
    await using one = await scenario("unmap");
    const lvol = await one.make("a", true, "write_zeroes");
    expect(await one.found(lvol, 0)).toEqual([0]);
    await one.write(lvol, PAGE, 1);
    expect(await one.found(lvol, PAGE)).toEqual([1]);
    expect(await one.found(lvol, 0)).toEqual([OLD]);
    expect(await one.found(lvol, CLUSTER)).toEqual([0]);
  });

  it("an inflated lvol and a grown thick lvol show the old bytes", async () => {
    await using one = await scenario("none");
    const [thin, thick] = [
      await one.make("thin", true, "unmap"),
      await one.make("thick", false, "unmap"),
    ];
    await one.spdk().bdevLvolInflate({ lvsUuid: one.lvsUuid, name: thin });
    expect(await one.found(thin, 7 * CLUSTER)).toEqual([OLD]);
    const size = { lvsUuid: one.lvsUuid, name: thick, sizeBytes: 9n * MIB };
    await one.spdk().bdevLvolResize(size);
    expect(await one.found(thick, 8 * CLUSTER)).toEqual([OLD]);
  });
});

describe("data of a deleted lvol in the next lvol", () => {
  it.each<[Clear, "keeps" | "zeroes", number]>([
    ["none", "zeroes", 7],
    ["unmap", "keeps", 7],
    ["unmap", "zeroes", 0],
    ["write_zeroes", "keeps", 0],
  ])("with clear method %s on a disk whose unmap %s: byte %i", async (clear, unmap, expected) => {
    await using one = await scenario("write_zeroes", { unmap });
    const first = await one.make("first", true, clear);
    await one.write(first, 0, 7);
    await one.spdk().bdevLvolDelete({ lvsUuid: one.lvsUuid, name: first });
    const second = await one.make("second", false, "write_zeroes");
    expect(await one.found(second, 0)).toEqual([expected]);
  });

  it("is readable when the target is killed between freeing and clearing the clusters", async () => {
    await using one = await scenario("write_zeroes");
    const first = await one.make("first", true, "write_zeroes");
    await one.write(first, 0, 7);
    await using control = await one.control();
    const { stopped } = await control.stopAt({ when: "midway", method: "bdev_lvol_delete" });
    const gone = one
      .spdk()
      .bdevLvolDelete({ lvsUuid: one.lvsUuid, name: first })
      .catch(() => {});
    await stopped;
    await one.restart();
    await gone;
    expect(await one.spdk().bdevLvolGetLvols()).toEqual([]);
    const second = await one.make("second", false, "write_zeroes");
    expect(await one.found(second, 0)).toEqual([7]);
  });

  it("is not readable after the free space was zeroed", async () => {
    await using one = await scenario("none");
    const [store] = await one.spdk().bdevLvolGetLvstores();
    const all = await one.spdk().bdevLvolCreate({
      lvsUuid: one.lvsUuid,
      lvolName: "scratch",
      sizeBytes: (store?.freeClusters ?? 0n) * MIB,
      thin: false,
      clearMethod: "write_zeroes",
    });
    expect(await one.found(all, 0)).toEqual([OLD]);
    await one.spdk().bdevLvolDelete({ lvsUuid: one.lvsUuid, name: all });
    expect(await one.found(await one.make("next", false, "write_zeroes"), 0)).toEqual([0]);
  });
});

describe("snapshots and clones", () => {
  it("keep what was written before; a first write allocates a cluster with its old bytes", async () => {
    await using one = await scenario("none");
    const { lvsUuid } = one;
    const spdk = one.spdk();
    const lvol = await one.make("a", true, "write_zeroes");
    await one.write(lvol, 0, 1);
    const snapshot = await spdk.bdevLvolSnapshot({ lvsUuid, name: lvol, snapshotName: "s" });
    await one.write(lvol, PAGE, 2);
    const clone = await spdk.bdevLvolClone({ lvsUuid, name: snapshot, cloneName: "c" });
    await one.write(clone, 0, 3);
    const first = async (name: string) => [await one.found(name, 0), await one.found(name, PAGE)];
    expect(await first(snapshot)).toEqual([[1], [OLD]]);
    expect(await first(lvol)).toEqual([[1], [2]]);
    expect(await first(clone)).toEqual([[3], [OLD]]);
    await expect(one.write(snapshot, 0, 9)).rejects.toThrow("read-only");
    await spdk.bdevLvolInflate({ lvsUuid, name: clone });
    await spdk.bdevLvolDelete({ lvsUuid, name: snapshot });
    expect(await first(lvol)).toEqual([[1], [2]]);
    expect(await first(clone)).toEqual([[3], [OLD]]);
  });
});

describe("an lvol whose parent is set", () => {
  it("reads what the snapshot has, keeps what it wrote and is cleared when it is deleted", async () => {
    await using one = await scenario("write_zeroes");
    const { lvsUuid } = one;
    const spdk = one.spdk();
    const source = await one.make("source", true, "write_zeroes");
    await one.write(source, 0, 1);
    await one.write(source, CLUSTER, 2);
    const parentName = await spdk.bdevLvolSnapshot({ lvsUuid, name: source, snapshotName: "s" });
    const clone = await one.make("clone", true, "write_zeroes");
    await one.write(clone, CLUSTER, 3);
    await spdk.bdevLvolSetParent({ lvsUuid, name: clone, parentName });
    expect(await one.found(clone, 0)).toEqual([1]);
    expect(await one.found(clone, CLUSTER)).toEqual([3]);
    const listed = await spdk.bdevLvolGetLvols();
    expect(listed.find(({ uuid }) => uuid === clone)).toMatchObject({ clone: true });
    await one.restart();
    expect(await one.found(clone, 0)).toEqual([1]);
    await one.spdk().bdevLvolDelete({ lvsUuid, name: clone });
    const next = await one.make("next", false, "write_zeroes");
    expect(await one.found(next, 0)).toEqual([0]);
  });

  it("has the snapshot's size and store, is thin, and gets it as its parent once", async () => {
    await using one = await scenario("write_zeroes");
    const { lvsUuid } = one;
    const spdk = one.spdk();
    const source = await one.make("source", true, "write_zeroes");
    const parentName = await spdk.bdevLvolSnapshot({ lvsUuid, name: source, snapshotName: "s" });
    const refusal = async (name: string, parent = parentName) =>
      await spdk.bdevLvolSetParent({ lvsUuid, name, parentName: parent }).then(
        () => "done",
        (error: unknown) => (error instanceof SpdkError ? error.kind : "another"),
      );
    const thin = await one.make("thin", true, "write_zeroes");
    expect(await refusal(source)).toBe("exists");
    expect(await refusal(await one.make("thick", false, "write_zeroes"))).toBe("invalid");
    expect(await refusal(thin, source)).toBe("invalid");
    await spdk.bdevLvolResize({ lvsUuid, name: thin, sizeBytes: 9n * MIB });
    expect(await refusal(thin)).toBe("invalid");
    expect(await refusal(thin, "nobody")).toBe("absent");
    await spdk.bdevLvolResize({ lvsUuid, name: thin, sizeBytes: 8n * MIB });
    expect(await refusal(thin)).toBe("done");
    expect(await refusal(thin)).toBe("exists");
  });
});

it("written bytes survive a kill -9 of the target", async () => {
  await using one = await scenario("write_zeroes");
  const lvol = await one.make("a", true, "write_zeroes");
  await one.write(lvol, 3 * CLUSTER + 2 * PAGE, 9);
  await one.restart();
  expect(await one.found(lvol, 3 * CLUSTER + 2 * PAGE)).toEqual([9]);
  expect(await one.found(lvol, 3 * CLUSTER)).toEqual([0]);
});
