// The conditions of a snapshot that is not on the target any more: a deletion that was asked is no loss.
import { describe, expect, it } from "vitest";
import { newSnapshotRow, snapshotConditions, type SnapshotRow } from "../../src/model/snapshot.ts";
import { UUID } from "../support/explain-facts.ts";
import { DISK, VOLUME } from "../support/model.ts";

const NOW = new Date(0);

function createdOf(change: Partial<SnapshotRow>) {
  const row = newSnapshotRow({
    id: "88888888-0000-4000-8000-000000000008",
    nodeId: "node-1",
    diskId: DISK,
    familyRoot: VOLUME,
    sourceLvolId: VOLUME,
    adopted: false,
    promisedBytes: 0n,
    labels: {},
    actor: undefined,
    traceparent: undefined,
    revision: 1n,
    now: NOW,
  });
  const conditions = snapshotConditions({
    row: { ...row, lvolUuid: UUID, ...change },
    observed: { kind: "absent" },
    failures: {},
    outcomeUnknown: undefined,
    targetConnected: true,
    diskReady: true,
    diskReason: "",
    clones: { made: [], pending: [] },
  });
  return conditions.find(({ type }) => type === "SnapshotCreated");
}

describe("a snapshot whose lvol is gone", () => {
  it("is lost, unless it was asked to be deleted", () => {
    expect(createdOf({})).toMatchObject({ status: "FALSE", reason: "DataMissing" });
    for (const deleteTime of [undefined, NOW]) {
      const created = createdOf({ deleteRequestedTime: NOW, deleteTime });
      expect(created).toMatchObject({ status: "FALSE", reason: "Deleted" });
    }
  });
});
