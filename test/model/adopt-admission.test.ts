// Whether an orphan may become a volume, and what that changes in the rows.
import { describe, expect, it } from "vitest";
import { adoptOrphan, type AdoptOrphan, type AdoptState } from "../../src/model/adopt-admission.ts";
import { Refusal } from "../../src/model/errors.ts";
import { uuidV5 } from "../../src/model/identity.ts";
import type { Intent } from "../../src/model/intent.ts";
import {
  CLUSTER,
  DISK,
  diskRow,
  lvolRow,
  NODE,
  PREFIX,
  STORE_UUID,
  VOLUME,
} from "../support/model.ts";

const UUID = "99999999-0000-4000-8000-000000000009";
const OTHER = uuidV5(DISK, "another volume");

function state(change: Partial<AdoptState> = {}): AdoptState {
  return {
    policy: { nodeId: NODE, nqnPrefix: PREFIX, overcommit: 1, maxExports: 1_022 },
    nodeCordoned: false,
    now: new Date(),
    revision: 7n,
    lvols: new Map(),
    snapshots: new Map(),
    gone: new Map(),
    disks: new Map([[DISK, diskRow()]]),
    volumeOfLvol: () => undefined,
    ...change,
  };
}

function adoption(
  lvol: Partial<AdoptOrphan["lvol"]> = {},
  otherOrphanBytes = 0n,
): Intent & AdoptOrphan {
  return {
    kind: "adoptOrphan",
    id: VOLUME,
    actor: "test",
    traceparent: undefined,
    lvol: {
      uuid: UUID,
      name: VOLUME,
      lvsUuid: STORE_UUID,
      diskId: DISK,
      sizeBytes: 5n * CLUSTER,
      thin: true,
      ...lvol,
    },
    otherOrphanBytes,
  };
}

function refused(given: AdoptState, asked = adoption()): Refusal {
  try {
    adoptOrphan(given, asked);
  } catch (error) {
    if (error instanceof Refusal) return error;
    throw error;
  }
  throw new Error("was not refused");
}

describe("the adoption of an orphan", () => {
  it("makes a row with its lvol, for nobody, and promises its size", () => {
    const given = state();
    const row = adoptOrphan(given, adoption());
    expect(row).toMatchObject({
      id: VOLUME,
      lvolUuid: UUID,
      lvsUuid: STORE_UUID,
      sizeBytes: 5n * CLUSTER,
      promisedBytes: 5n * CLUSTER,
      thin: true,
      hosts: [],
      allowAnyHost: false,
      unconfirmed: true,
      adopted: true,
      exported: false,
      nqn: `${PREFIX}:${VOLUME}`,
    });
    expect(given.lvols.get(VOLUME)).toBe(row);
    expect(given.disks.get(DISK)).toMatchObject({ promisedBytes: 5n * CLUSTER, lvolCount: 1 });
  });

  it("changes nothing when it is repeated, and is refused for another lvol", () => {
    const given = state();
    const row = adoptOrphan(given, adoption());
    const disk = given.disks.get(DISK);
    expect(adoptOrphan(given, adoption())).toBe(row);
    expect(given.disks.get(DISK)).toBe(disk);
    expect(refused(given, adoption({ uuid: OTHER })).reason).toBe("SPEC_MISMATCH");
  });

  it("is refused for an id that was used, here or on another node", () => {
    const gone = (ours: boolean) => state({ gone: new Map([[VOLUME, { ours }]]) });
    expect(refused(gone(true)).reason).toBe("ID_RETIRED");
    expect(refused(gone(false)).reason).toBe("OTHER_NODE");
    expect(refused(state({ snapshots: new Map([[VOLUME, true]]) })).reason).toBe("SPEC_MISMATCH");
    const lvols = (change: Parameters<typeof lvolRow>[0]) =>
      state({ lvols: new Map([[VOLUME, lvolRow({ lvolUuid: UUID, ...change })]]) });
    expect(refused(lvols({ deleteRequestedTime: new Date() })).reason).toBe("ID_RETIRED");
    expect(refused(lvols({ nodeId: "node-2" })).reason).toBe("OTHER_NODE");
  });

  it("is refused for the lvol of any volume, a deleted one included", () => {
    const owner = lvolRow({ id: OTHER, lvolUuid: UUID, deleteTime: new Date() });
    const given = state({ volumeOfLvol: (uuid) => (uuid === UUID ? owner : undefined) });
    expect(refused(given).reason).toBe("IN_USE");
  });

  it("keeps the id that the lvol has as its name, unless that is used", () => {
    expect(refused(state(), adoption({ name: OTHER }))).toMatchObject({
      reason: "INVALID_FIELD",
      details: { fields: [{ field: "id" }] },
    });
    const retired = state({ gone: new Map([[OTHER, { ours: true }]]) });
    expect(adoptOrphan(retired, adoption({ name: OTHER })).id).toBe(VOLUME);
    const taken = state({ lvols: new Map([[OTHER, lvolRow({ id: OTHER, nameTaken: true })]]) });
    expect(adoptOrphan(taken, adoption({ name: OTHER })).id).toBe(VOLUME);
    expect(adoptOrphan(state(), adoption({ name: "by-hand" })).id).toBe(VOLUME);
  });

  it("is refused where its size cannot be promised beside volumes and other orphans", () => {
    const disk = (promised: bigint) =>
      state({ disks: new Map([[DISK, diskRow({ promisedBytes: promised * CLUSTER })]]) });
    expect(adoptOrphan(disk(250n), adoption()).id).toBe(VOLUME);
    const full = refused(disk(251n));
    expect(full.reason).toBe("NO_CAPACITY");
    expect(full.details.quota?.[0]?.description).toContain(`${4n * CLUSTER} bytes left`);
    expect(refused(disk(250n), adoption({}, CLUSTER)).reason).toBe("NO_CAPACITY");
    const over = { ...disk(251n), policy: { ...state().policy, overcommit: 2 } };
    expect(adoptOrphan(over, adoption()).id).toBe(VOLUME);
    const thick = { ...disk(251n), policy: over.policy };
    expect(refused(thick, adoption({ thin: false })).reason).toBe("NO_CAPACITY");
  });

  it("is refused on a cordoned node or disk, beyond the exports of the target, and in another store", () => {
    expect(refused(state({ nodeCordoned: true })).reason).toBe("CORDONED");
    const disks = new Map([[DISK, diskRow({ cordoned: true })]]);
    expect(refused(state({ disks })).reason).toBe("CORDONED");
    const policy = { ...state().policy, maxExports: 0 };
    expect(refused(state({ policy })).reason).toBe("EXPORT_LIMIT");
    expect(refused(state(), adoption({ lvsUuid: UUID })).reason).toBe("NOT_FOUND");
  });
});
