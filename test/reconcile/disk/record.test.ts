// The recorded status of a disk whose lvstore is expected: loading takes minutes and is not a
// failure.
import { describe, expect, it } from "vitest";
import { ownSubjects } from "../../../src/model/disk-claim.ts";
import { newDiskRow, type DiskRow } from "../../../src/model/disk.ts";
import { fingerprint, type Evidence } from "../../../src/model/evidence.ts";
import { diskId, storeName } from "../../../src/model/identity.ts";
import { spaceOnTarget } from "../../../src/reconcile/disk/free-space.ts";
import { diskPhase } from "../../../src/reconcile/disk/phase.ts";
import { diskRecord } from "../../../src/reconcile/disk/record.ts";
import type { DiskView } from "../../../src/reconcile/disk/view.ts";
import { diskRow, FLEET, SPACE_THRESHOLDS } from "../../support/model.ts";

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

/** An attached disk with a recorded lvstore that is not observed. */
function view(change: Partial<DiskView> = {}): DiskView {
  const incarnation = "run";
  const row =
    change.row ??
    diskRow({ id: ID, ...SERIAL, lvsName: STORE.name, lvsUuid: STORE.uuid, transport: "TCP" });
  const onTarget = "onTarget" in change ? change.onTarget : ON_TARGET;
  return {
    row,
    now: NOW,
    inFlight: false,
    failures: {},
    targetConnected: true,
    onTarget,
    space: spaceOnTarget(row, onTarget, SPACE_THRESHOLDS),
    spaceThresholds: SPACE_THRESHOLDS,
    targetListed: true,
    attachMayRun: false,
    inKernel: undefined,
    kernelListed: true,
    zeroesByItself: false,
    zeroingRests: undefined,
    fabric: undefined,
    conflict: undefined,
    ownSubjects: ownSubjects([row]),
    setback: undefined,
    waits: undefined,
    claimedBlank: false,
    loadEnded: false,
    exportsLeft: 0,
    heldBy: [],
    outcomeUnknown: undefined,
    fleet: FLEET,
    pending: { incarnation, epoch: 1n, now: NOW, graceUntil: NOW, earlierMayRun: false },
    writeMode: "read-write",
    slices: [],
    hostsMayFree: false,
    mayBeDirty: false,
    ...change,
  };
}

describe("a disk with snapshots that goes away under its hosts", () => {
  const copying = { lvsName: STORE.name, lvsUuid: STORE.uuid, freeSpace: "ZEROED" } as const;
  const row = diskRow({ id: ID, ...SERIAL, ...copying, copyingRun: "run", snapshotCount: 1 });
  const seen = (change: Partial<DiskView>) => diskRecord(view({ row, ...change }))?.freeSpace;

  it("may have the copy of a cluster among its free ones", () => {
    expect(seen({ onTarget: undefined })).toBe("UNKNOWN");
  });

  it("has none while it is there, or is not known to be away, or has no snapshots", () => {
    expect(seen({ onTarget: { ...ON_TARGET, store: STORE } })).toBeUndefined();
    expect(seen({ onTarget: undefined, targetListed: false })).toBeUndefined();
    const uncopied = { ...row, copyingRun: undefined, snapshotCount: 0 };
    expect(seen({ onTarget: undefined, row: uncopied })).toBeUndefined();
  });
});

describe("an attached disk whose recorded lvstore is not observed", () => {
  it("is CLAIMING while SPDK may still be loading lvstores", () => {
    expect(diskPhase(view())).toEqual({
      state: "CLAIMING",
      stateReason: "its lvstore is being loaded",
    });
  });

  it("is FAILED once SPDK has finished loading lvstores", () => {
    expect(diskPhase(view({ loadEnded: true }))?.state).toBe("FAILED");
  });

  it("is UP once the lvstore is loaded", () => {
    expect(diskPhase(view({ onTarget: { ...ON_TARGET, store: STORE } }))?.state).toBe("UP");
  });

  it("keeps the pending op of its attach until then", () => {
    const op = { op: "attach", run: "run", epoch: 1n, since: NOW, failed: false } as const;
    const row = { ...view().row, pendingOp: op };
    expect(diskRecord(view({ row }))).not.toHaveProperty("pendingOp");
    expect(diskRecord(view({ row, loadEnded: true }))).toHaveProperty("pendingOp", undefined);
  });
});

describe("a disk that its kernel driver shows and that this agent has not looked at", () => {
  const row = diskRow({
    id: ID,
    ...SERIAL,
    admitted: false,
    lvsName: undefined,
    lvsUuid: undefined,
  });
  const place = { address: "0000:01:00.0", driver: "nvme", kernelName: "nvme0n1", taken: false };
  const seen = (change: Partial<DiskRow>, evidence?: readonly Evidence[]) =>
    diskPhase(
      view({ row: { ...row, ...change }, onTarget: undefined, inKernel: { ...place, evidence } }),
    );

  it("is what the last look found", () => {
    for (const state of ["DISCOVERED", "IN_USE", "FOREIGN"] as const) {
      expect(seen({ state })).toBeUndefined();
    }
  });

  it("is back from where no look is possible, and is said not to be looked at yet", () => {
    const reason = { state: "DISCOVERED", stateReason: "not looked at yet" };
    for (const state of ["MISSING", "CONFLICT"] as const) expect(seen({ state })).toEqual(reason);
    expect(newDiskRow("node-1", { ...row, ...SERIAL }, NOW)).toMatchObject(reason);
  });

  it("is said to have lost its admission, if it has", () => {
    const admissionEnded = "its evidence changed";
    expect(seen({ state: "CLAIMING", admissionEnded })).toEqual({
      state: "DISCOVERED",
      stateReason: admissionEnded,
    });
  });

  it("is not admitted once it was looked at", () => {
    expect(seen({ state: "FOREIGN" }, [])).toEqual({
      state: "DISCOVERED",
      stateReason: "not admitted",
    });
  });
});

describe("the pending op of a purge", () => {
  const up = view({ onTarget: { ...ON_TARGET, store: STORE } });
  const op = { op: "purge-orphan", run: "run", epoch: 1n, since: NOW, failed: false } as const;
  const ends = (change: Partial<typeof op> | object, graceUntil = NOW) => {
    const row = { ...up.row, pendingOp: { ...op, ...change } };
    const pending = { ...up.pending, graceUntil };
    return "pendingOp" in (diskRecord({ ...up, row, pending }) ?? {});
  };

  it("stays while the delete may be running: that of this agent, and within the grace", () => {
    expect(ends({})).toBe(false);
    expect(ends({ epoch: 0n }, new Date(NOW.getTime() + 1))).toBe(false);
  });

  it("ends with the grace, and with the incarnation of the target", () => {
    expect(ends({ epoch: 0n })).toBe(true);
    expect(ends({ run: "before" })).toBe(true);
  });
});

describe("the failures of a disk's steps", () => {
  const nextTryTime = NOW;
  const failures = {
    "disk-init/attach-disk": { attempt: 3, message: "worst", nextTryTime },
    "disk-init/claim-disk": { attempt: 1, message: "other", nextTryTime },
  };
  const up = view({ onTarget: { ...ON_TARGET, store: STORE } });

  it("are recorded when one is tried again, with the worst of them for people", () => {
    expect(diskRecord({ ...up, failures })).toMatchObject({
      failures,
      lastError: "worst",
      attempt: 3,
      nextTryTime,
    });
    const again = { ...failures["disk-init/attach-disk"], nextTryTime: new Date(0) };
    const row = { ...up.row, failures: { ...failures, "disk-init/attach-disk": again } };
    expect(diskRecord({ ...up, row, failures })).not.toHaveProperty("failures");
  });

  it("are recorded as over when none is left", () => {
    const row = { ...up.row, failures, lastError: "worst", attempt: 3, nextTryTime };
    const patch = diskRecord({ ...up, row });
    expect(patch).toMatchObject({ failures: {}, attempt: 0 });
    expect(patch).toHaveProperty("lastError", undefined);
    expect(patch).toHaveProperty("nextTryTime", undefined);
  });

  it("do not change what was recorded when the agent gave up", () => {
    const row = { ...up.row, state: "FAILED", lastError: "why" } as const;
    expect(diskRecord({ ...up, row, failures }) ?? {}).not.toHaveProperty("lastError");
  });
});

describe("the free clusters of a disk that is UP", () => {
  const store = { ...STORE, totalClusters: 1_000n };
  const recorded = (freeClusters: bigint, change: Partial<DiskRow> = {}) => {
    const row = diskRow({
      id: ID,
      ...SERIAL,
      lvsName: STORE.name,
      lvsUuid: STORE.uuid,
      clusterBytes: store.clusterBytes,
      totalClusters: store.totalClusters,
      freeClusters: 500n,
      controllerName: ON_TARGET.controllerName,
      sizeBytes: ON_TARGET.sizeBytes,
      blockSize: ON_TARGET.blockSize,
      ...change,
    });
    return diskRecord(view({ row, onTarget: { ...ON_TARGET, store: { ...store, freeClusters } } }));
  };

  it("are no reason to write while they are off by less than one percent of it", () => {
    expect(recorded(495n)).toBeUndefined();
    expect(recorded(490n)).toEqual({ freeClusters: 490n });
  });

  it("are written with a change of the level, and with whatever else is written", () => {
    expect(recorded(199n, { freeClusters: 201n })).toEqual({
      freeClusters: 199n,
      spaceLevel: "LOW",
    });
    expect(recorded(499n, { observedGeneration: 0n })).toEqual({
      freeClusters: 499n,
      observedGeneration: 1n,
    });
  });
});

describe("the evidence against a disk under its kernel driver", () => {
  const row = diskRow({
    id: ID,
    ...SERIAL,
    transport: "PCIe",
    lvsUuid: undefined,
    admitted: false,
  });
  const kernel = (evidence: readonly Evidence[]) => ({
    row,
    onTarget: undefined,
    inKernel: {
      address: "0000:01:00.0",
      driver: "nvme",
      kernelName: undefined,
      taken: false,
      evidence,
    },
  });
  const mounted = { kind: "MOUNTED", subject: "S1/1p1", detail: "on /data" } as const;

  it("has a fingerprint of what is on the disk itself, and of nothing else", () => {
    const place = { kind: "NO_IOMMU", subject: "0000:01:00.0", detail: "" } as const;
    const sibling = { ...mounted, subject: "S1/11" };
    const facts = [mounted, place, sibling];
    expect(diskRecord(view(kernel(facts)))?.evidenceFingerprint).toBe(fingerprint([mounted]));
  });

  it("makes no foreign disk of one whose node has no IOMMU", () => {
    const none = { kind: "NO_IOMMU", subject: "0000:01:00.0", detail: "none" } as const;
    expect(diskPhase(view(kernel([none])))).toEqual({
      state: "DISCOVERED",
      stateReason: "NO_IOMMU: 0000:01:00.0 none",
    });
    expect(diskPhase(view(kernel([none, mounted])))?.state).toBe("IN_USE");
  });
});

describe("a disk that is to be released and is on the target no more", () => {
  const away = { onTarget: undefined, inKernel: undefined } as const;
  const place = { traddr: "10.0.0.1", trsvcid: "4420", subnqn: "nqn.d" };
  const fabric = { trtype: "TCP", ...place, format: false } as const;
  const LOST = { of: "disk", method: "bdev_nvme_attach_controller", since: NOW } as const;
  const row = (state: DiskRow["state"]) =>
    diskRow({ id: ID, ...SERIAL, wanted: "release", state, transport: "PCIe" });

  it("is released once nothing of it is exported any more", () => {
    const left = diskRecord(view({ ...away, row: row("UP"), exportsLeft: 2 }));
    expect(left).toMatchObject({ state: "RELEASING" });
    expect(left?.stateReason).toContain("exports of 2 of its volumes");
    expect(left).not.toHaveProperty("observedGeneration");
    expect(diskRecord(view({ ...away, row: row("RELEASING") }))).toMatchObject({
      state: "RELEASED",
    });
  });

  it.each([
    ["a step on it is not answered", { inFlight: true }],
    ["the outcome of one is not known", { outcomeUnknown: LOST }],
    ["something else that was sent may attach it", { attachMayRun: true }],
  ])("is not released while %s", (_what, doubt) => {
    for (const transport of ["TCP", "PCIe"] as const) {
      const releasing = { ...row("CLAIMING"), transport };
      expect(diskPhase(view({ ...away, row: releasing, fabric, ...doubt }))).toMatchObject({
        state: "RELEASING",
        stateReason: expect.stringContaining("may still be attached"),
      });
      expect(diskPhase(view({ ...away, row: releasing, fabric }))?.state).toBe("RELEASED");
    }
  });

  it("stays released whatever is sent, but for an attach that was announced since", () => {
    const sent = { ...away, fabric, inFlight: true };
    expect(diskPhase(view({ ...sent, row: row("RELEASED") }))?.state).toBe("RELEASED");
    const op = { op: "attach", run: "run", epoch: 1n, since: NOW, failed: false } as const;
    const announced = { ...row("RELEASED"), pendingOp: op };
    expect(diskPhase(view({ ...sent, row: announced }))?.state).toBe("RELEASING");
    const ended = diskRecord(view({ ...away, fabric, row: announced }));
    expect(ended).toHaveProperty("pendingOp", undefined);
  });

  it("is not released while its controller may be in the middle of a claim", () => {
    const address = "0000:01:00.0";
    const shown = { address, driver: "nvme", kernelName: "nvme0n1", taken: false } as const;
    const seen = { ...away, inKernel: { ...shown, evidence: undefined } };
    expect(diskPhase(view({ ...seen, row: row("CLAIMING") }))?.state).toBe("RELEASING");
    expect(diskPhase(view({ ...seen, row: row("RELEASED") }))).toBeUndefined();
    const looked = { ...away, inKernel: { ...shown, evidence: [] }, row: row("RELEASING") };
    expect(diskPhase(view(looked))?.state).toBe("RELEASED");
  });

  it("stays so when another incarnation of the target was not asked for its exports yet", () => {
    const again = diskRecord(view({ ...away, row: row("RELEASED"), exportsLeft: 2 }));
    expect(again).not.toHaveProperty("state");
  });
});
