// What is recorded of a disk whose store is expected: loading takes minutes, and is no failure.
import { describe, expect, it } from "vitest";
import { diskId, storeName } from "../../../src/model/identity.ts";
import { diskRecord, diskPhase } from "../../../src/reconcile/disk/record.ts";
import type { DiskView } from "../../../src/reconcile/disk/view.ts";
import { diskRow, FLEET } from "../../support/model.ts";

const NOW = new Date("2026-11-26T00:00:00Z");
const SERIAL = { serial: "S1", model: "M", nsid: 1 };
const ID = diskId(SERIAL);
const STORE = {
  name: storeName(FLEET, ID),
  uuid: "11111111-1111-4111-8111-111111111111",
  baseBdev: "d",
  clusterBytes: 4n,
  totalClusters: 10n,
  freeClusters: 10n,
};
const ON_TARGET = {
  ...SERIAL,
  controllerName: "c",
  bdevName: "d",
  sizeBytes: 1n,
  blockSize: 512,
  store: undefined,
};

/** An attached disk with a store of ours, which is not there (yet). */
function view(change: Partial<DiskView> = {}): DiskView {
  const incarnation = "run";
  return {
    row: diskRow({ id: ID, ...SERIAL, lvsName: STORE.name, lvsUuid: STORE.uuid, transport: "TCP" }),
    now: NOW,
    inFlight: false,
    targetConnected: true,
    onTarget: ON_TARGET,
    targetListed: true,
    inKernel: undefined,
    kernelListed: true,
    fabric: undefined,
    duplicate: false,
    claimedBlank: false,
    loadEnded: false,
    foundEmpty: false,
    fleet: FLEET,
    pending: { incarnation, epoch: 1n, now: NOW, graceUntil: NOW },
    writeMode: "read-write",
    mayBeDirty: false,
    ...change,
  };
}

describe("an attached disk whose store is not there", () => {
  it("is CLAIMING while anything may still be loaded, whoever attached it", () => {
    expect(diskPhase(view())).toEqual({
      state: "CLAIMING",
      stateReason: "its store is being loaded",
    });
  });

  it("is FAILED once nothing is being loaded any more", () => {
    expect(diskPhase(view({ loadEnded: true }))?.state).toBe("FAILED");
  });

  it("is UP when the store comes", () => {
    expect(diskPhase(view({ onTarget: { ...ON_TARGET, store: STORE } }))?.state).toBe("UP");
  });

  it("keeps the note of its attach until then", () => {
    const op = { op: "attach", run: "run", epoch: 1n, since: NOW, failed: false } as const;
    const row = { ...view().row, pendingOp: op };
    expect(diskRecord(view({ row }))).not.toHaveProperty("pendingOp");
    expect(diskRecord(view({ row, loadEnded: true }))).toHaveProperty("pendingOp", undefined);
  });
});
