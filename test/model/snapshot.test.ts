// The conditions of a snapshot that is not on the target any more: a deletion that was asked is no loss.
import { describe, expect, it } from "vitest";
import { snapshotConditions, type SnapshotRow } from "../../src/model/snapshot.ts";
import { NOW, snapshotView } from "../support/explain-facts.ts";

function createdOf(change: Partial<SnapshotRow>) {
  const conditions = snapshotConditions({ ...snapshotView(change), observed: { kind: "absent" } });
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
