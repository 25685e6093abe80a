// How many bytes of a disk zeroing holds, which its lvstore does not count as free.
import { describe, expect, it } from "vitest";
import { Slices } from "../../../src/reconcile/disk/slices.ts";
import { Observed } from "../../../src/reconcile/target/observed.ts";
import { Rows } from "../../../src/store/rows.ts";
import { CLUSTER, diskRow, STORE_UUID } from "../../support/model.ts";

const row = diskRow({ freeSpace: "UNKNOWN" });

function parts() {
  const observed = new Observed(
    () => {},
    () => undefined,
  );
  observed.beginIncarnation("0123456789abcdef", { earlierMayRun: false, discardGuard: "nothing" });
  const store = { clusterBytes: CLUSTER, totalClusters: 10n, freeClusters: 10n };
  observed.setDisk(row.id, {
    controllerName: "c",
    bdevName: "c1n1",
    serial: row.serial,
    model: row.model,
    sizeBytes: row.sizeBytes,
    blockSize: 512,
    store: { name: "s", uuid: STORE_UUID, baseBdev: "c1n1", ...store },
  });
  const rows = new Rows();
  rows.apply({ disks: [row] });
  const slices = new Slices(observed);
  const read = (freeClusters: bigint, mark = observed.beginFreeRead()) =>
    observed.setFreeClusters(row.id, { uuid: STORE_UUID, freeClusters }, mark);
  return { observed, rows, slices, read };
}

const slice = (uuid: string, clusters: bigint) => ({
  uuid,
  name: `zero-free-space-${uuid}`,
  bytes: clusters * CLUSTER,
  isFiller: false,
});

describe("what zeroing holds", () => {
  it("is all slices, and one that is gone until free clusters were read after that", () => {
    const { observed, slices, read } = parts();
    slices.found(row.id, [], CLUSTER);
    expect(slices.heldBytes(row)).toBe(0n);
    slices.add(row.id, slice("1", 6n));
    slices.add(row.id, slice("2", 3n));
    read(1n);
    expect(slices.heldBytes(row)).toBe(9n * CLUSTER);
    const before = observed.beginFreeRead();
    slices.remove(row.id, "1");
    expect(slices.heldBytes(row)).toBe(9n * CLUSTER);
    read(1n, before);
    expect(slices.heldBytes(row)).toBe(9n * CLUSTER);
    read(7n);
    expect(slices.heldBytes(row)).toBe(3n * CLUSTER);
  });

  it("is what the row says while the slices were not listed", () => {
    const { slices } = parts();
    expect(slices.heldBytes(row)).toBe(0n);
    const startTime = new Date("2026-11-26T00:00:00Z");
    const zeroing = { startTime, zeroedBytes: CLUSTER, totalBytes: 4n * CLUSTER };
    expect(slices.heldBytes({ ...row, zeroing })).toBe(3n * CLUSTER);
  });
});

describe("the slices of a disk", () => {
  const listed = (...indexes: readonly number[]) =>
    indexes.map((index) => ({
      uuid: `${index}`,
      alias: `s/zero-free-space-${index}`,
      allocatedClusters: 1n,
      store: { uuid: STORE_UUID },
    }));
  const uuids = ({ slices }: ReturnType<typeof parts>) =>
    slices.of(row.id)?.map(({ uuid }) => uuid);

  it("are those that a scan shows, also if others were known before, without what is gone", () => {
    const on = parts();
    const { slices, rows } = on;
    expect(slices.applyScan(rows, listed(1, 2))).toEqual([row.id]);
    slices.remove(row.id, "1");
    expect(slices.applyScan(rows, listed(1, 2))).toEqual([]);
    expect(slices.applyScan(rows, listed(1, 2, 3))).toEqual([row.id]);
    expect(uuids(on)).toEqual(["2", "3"]);
  });

  it("are unknown once their store is gone, also when it is back", () => {
    const on = parts();
    const { observed, slices, rows } = on;
    const disk = observed.disk(row.id);
    slices.applyScan(rows, listed(1, 2));
    slices.remove(row.id, "1");
    observed.setDisk(row.id, undefined);
    expect(uuids(on)).toBeUndefined();
    observed.setDisk(row.id, disk);
    expect(uuids(on)).toBeUndefined();
    expect(slices.applyScan(rows, listed(1))).toEqual([row.id]);
    expect(uuids(on)).toEqual(["1"]);
  });
});
