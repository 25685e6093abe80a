// Admission of ResizeLvol and UpdateLvol: what is promised, what is refused with which numbers, and that the
// promises of a disk are the sum of its volumes' whatever is asked.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { admit, type AdmissionState } from "../../src/model/admission.ts";
import type { Resize, Update } from "../../src/model/change-admission.ts";
import { promisableBytes, type DiskRow } from "../../src/model/disk.ts";
import { Refusal } from "../../src/model/errors.ts";
import { NO_LIMITS, type LvolRow } from "../../src/model/lvol.ts";
import { CLUSTER, DISK, diskRow, lvolRow, MIB, VOLUME } from "../support/model.ts";

const WHO = { id: VOLUME, actor: "test", traceparent: undefined };

/** One volume of 10 MiB, which has 3 clusters, on a disk of 255 clusters. */
function state(
  row: Partial<LvolRow> = {},
  disk: Partial<DiskRow> = {},
  policy: Partial<AdmissionState["policy"]> = {},
): AdmissionState {
  const on = diskRow({ promisedBytes: 3n * CLUSTER, lvolCount: 1, ...disk });
  const volume = lvolRow({ sizeBytes: 10n * MIB, ...row });
  return {
    policy: {
      nodeId: "node-1",
      nqnPrefix: "nqn.2026-11.io.storage-node",
      overcommit: 1,
      maxExports: 1022,
      isolation: "strict",
      zeroing: "manual",
      ...policy,
    },
    limits: { hosts: 3 },
    nodeCordoned: true,
    now: new Date(),
    revision: 7n,
    lvols: new Map([[volume.id, volume]]),
    volumeOfLvol: () => undefined,
    snapshots: new Map(),
    gone: new Map(),
    disks: new Map([[on.id, on]]),
    controllers: new Map(),
  };
}

function rowOf(given: AdmissionState, change: Resize | Update): LvolRow {
  const decision = admit(given, { ...WHO, ...change });
  if (decision.kind !== "lvol" || decision.row === undefined) throw new Error("no volume");
  return decision.row;
}

const resize = (given: AdmissionState, sizeBytes: bigint, more: Partial<Resize> = {}) =>
  rowOf(given, { kind: "resize", sizeBytes, ...more });

const update = (given: AdmissionState, change: Partial<Update>) =>
  rowOf(given, { kind: "update", qos: undefined, labels: undefined, etag: undefined, ...change });

function refusal(act: () => unknown): Refusal {
  try {
    act();
  } catch (error) {
    if (error instanceof Refusal) return error;
    throw error;
  }
  throw new Error("was not refused");
}

const promised = ({ disks }: AdmissionState) => disks.get(DISK)?.promisedBytes;

describe("admission of a resize", () => {
  it("promises whole clusters more, on a cordoned node and disk and one that is away, too", () => {
    for (const is of ["UP", "MISSING", "CLAIMING"] as const) {
      const given = state({ failed: true }, { cordoned: true, state: is });
      const row = resize(given, 13n * MIB);
      expect(row).toMatchObject({ sizeBytes: 13n * MIB, promisedBytes: 4n * CLUSTER });
      expect(row).toMatchObject({ generation: 2n, failed: false, actor: "test" });
      expect(promised(given)).toBe(4n * CLUSTER);
    }
  });

  it("is a new intent without another promise where the clusters suffice already", () => {
    const given = state();
    expect(resize(given, 11n * MIB)).toMatchObject({ generation: 2n, promisedBytes: 3n * CLUSTER });
    expect(promised(given)).toBe(3n * CLUSTER);
  });

  it("to the present size changes nothing, whatever the disk is like", () => {
    const given = state({}, { freeSpace: "UNKNOWN", clusterBytes: undefined });
    expect(resize(given, 10n * MIB)).toBe(given.lvols.get(VOLUME));
    expect(given.lvols.get(VOLUME)?.generation).toBe(1n);
  });

  it.each([
    ["a smaller size", {}, {}, 10n * MIB - 1n, "SHRINK_REFUSED", "OUT_OF_RANGE"],
    ["more than the disk has", {}, {}, 256n * CLUSTER, "INVALID_FIELD", "OUT_OF_RANGE"],
    [
      "more than is left",
      {},
      { promisedBytes: 250n * CLUSTER },
      9n * CLUSTER,
      "NO_CAPACITY",
      "RESOURCE_EXHAUSTED",
    ],
    [
      "clusters that may hold old bytes",
      {},
      { freeSpace: "UNKNOWN" },
      4n * CLUSTER,
      "FREE_SPACE_NOT_ZEROED",
      "FAILED_PRECONDITION",
    ],
    [
      "new bytes on a disk that is failing",
      {},
      { health: "FAILED", healthReasons: ["READ_ONLY"] },
      4n * CLUSTER,
      "DISK_UNHEALTHY",
      "FAILED_PRECONDITION",
    ],
    [
      "what is being deleted",
      { deleteRequestedTime: new Date() },
      {},
      4n * CLUSTER,
      "ID_RETIRED",
      "FAILED_PRECONDITION",
    ],
    ["what another node has", { nodeId: "node-2" }, {}, 4n * CLUSTER, "NOT_FOUND", "NOT_FOUND"],
    [
      "a disk without a store",
      {},
      { clusterBytes: undefined },
      4n * CLUSTER,
      "DISK_NOT_UP",
      "FAILED_PRECONDITION",
    ],
  ] as const)("refuses %s, and changes nothing", (_what, row, disk, size, reason, code) => {
    const given = state(row, disk);
    const before = { lvol: given.lvols.get(VOLUME), disk: given.disks.get(DISK) };
    expect(refusal(() => resize(given, size))).toMatchObject({ reason, code });
    expect({ lvol: given.lvols.get(VOLUME), disk: given.disks.get(DISK) }).toEqual(before);
  });

  it("says what was asked and what is left, with orphans and over-commit counted", () => {
    const full = { promisedBytes: 250n * CLUSTER };
    const orphanBytes = new Map([[DISK, 2n * CLUSTER]]);
    const refused = refusal(() => resize(state({}, full), 9n * CLUSTER, { orphanBytes }));
    expect(refused.details.metadata).toEqual({
      asked_bytes: `${6n * CLUSTER}`,
      left_bytes: `${3n * CLUSTER}`,
    });
    const over = { overcommit: 2 } as const;
    expect(resize(state({}, full, over), 9n * CLUSTER).promisedBytes).toBe(9n * CLUSTER);
    // A thick volume takes its clusters at once.
    const thick = refusal(() => resize(state({ thin: false }, full, over), 9n * CLUSTER));
    expect(thick.details.metadata).toMatchObject({ left_bytes: `${5n * CLUSTER}` });
  });

  it("takes clusters that may hold old bytes where tenants trust each other", () => {
    const given = state({}, { freeSpace: "UNKNOWN" }, { isolation: "trusted" });
    expect(resize(given, 4n * CLUSTER).promisedBytes).toBe(4n * CLUSTER);
  });

  it("keeps the disk's promise the sum of its volumes', within what it may promise", () => {
    const sizes = fc.array(fc.bigInt({ min: 1n, max: 300n * CLUSTER }), { maxLength: 12 });
    fc.assert(
      fc.property(sizes, fc.boolean(), fc.constantFrom(1, 1.5, 4), (asked, thin, overcommit) => {
        const given = state({ thin }, {}, { overcommit });
        let wanted = 10n * MIB;
        for (const size of asked) {
          try {
            const row = resize(given, size);
            expect(size).toBeGreaterThanOrEqual(wanted);
            wanted = size;
            expect(row.sizeBytes).toBe(wanted);
          } catch (error) {
            if (!(error instanceof Refusal)) throw error;
          }
          const row = given.lvols.get(VOLUME);
          expect(promised(given)).toBe(row?.promisedBytes);
          expect(row?.promisedBytes).toBeGreaterThanOrEqual(row?.sizeBytes ?? 0n);
          const disk = given.disks.get(DISK) ?? diskRow();
          expect(disk.promisedBytes).toBeLessThanOrEqual(promisableBytes(disk, overcommit));
        }
      }),
    );
  });
});

describe("admission of an update", () => {
  const LIMITS = { ...NO_LIMITS, rwIops: 1_000n };

  it("changes what is given and nothing else; limits of 0 are none", () => {
    const given = state({ labels: { a: "1" } });
    expect(update(given, { qos: LIMITS })).toMatchObject({ qos: LIMITS, labels: { a: "1" } });
    expect(update(given, { labels: {} })).toMatchObject({ qos: LIMITS, labels: {} });
    const last = update(given, { qos: NO_LIMITS });
    expect(last).toMatchObject({ qos: undefined, generation: 4n });
    expect(update(given, { qos: NO_LIMITS })).toBe(last);
    expect(update(given, {})).toBe(last);
  });

  it("refuses another etag than the present one, unless there is nothing to change", () => {
    const given = state();
    const changed = update(given, { qos: LIMITS, etag: "1" });
    expect(changed.generation).toBe(2n);
    expect(update(given, { qos: LIMITS, etag: "1" })).toBe(changed);
    const refused = refusal(() => update(given, { qos: NO_LIMITS, etag: "1" }));
    expect(refused).toMatchObject({ reason: "ETAG_MISMATCH", code: "ABORTED" });
    expect(given.lvols.get(VOLUME)).toBe(changed);
    expect(update(given, { qos: NO_LIMITS, etag: "2" }).generation).toBe(3n);
  });

  it("is refused for a volume that is being deleted, or that this node does not have", () => {
    const deleting = state({ deleteRequestedTime: new Date() });
    expect(refusal(() => update(deleting, { qos: LIMITS })).reason).toBe("ID_RETIRED");
    const other = state({ nodeId: "node-2" });
    expect(refusal(() => update(other, { qos: LIMITS })).reason).toBe("NOT_FOUND");
  });
});
