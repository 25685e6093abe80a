// Admission of WipeDisk: what it is bound to, and each thing that forbids it.
import { describe, expect, it } from "vitest";
import { admitDisk } from "../../src/model/disk-admission.ts";
import type { DiskRow } from "../../src/model/disk.ts";
import { Refusal } from "../../src/model/errors.ts";
import { fingerprint, type Evidence, type EvidenceKind } from "../../src/model/evidence.ts";
import { releaseDisk } from "../../src/model/release-admission.ts";
import { isAsAsked, type Wipe } from "../../src/model/wipe.ts";
import { wipeDisk, type WipeDisk, type WipeLook } from "../../src/model/wipe-admission.ts";
import { DISK, diskRow } from "../support/model.ts";

const NOW = new Date("2026-11-26T00:00:00Z");
const ADDRESS = "0000:01:00.0";
const TABLE: Evidence = { kind: "PARTITION_TABLE", subject: "SERIAL1/1", detail: "GPT" };
const DATA: Evidence = { kind: "NONZERO_DATA", subject: "SERIAL1/1", detail: "in the first MiB" };
const SIBLING: Evidence = { kind: "SWAP", subject: "SERIAL1/2p1", detail: "swap space in use" };

const FOREIGN = {
  admitted: false,
  admittedSerial: undefined,
  lvsUuid: undefined,
  lvsName: undefined,
  driver: "nvme",
  state: "FOREIGN",
} as const;

function asked(change: Partial<WipeDisk> = {}, look: Partial<WipeLook> = {}) {
  const place = { functions: [ADDRESS], partitions: true, siblings: [] };
  const id: string = DISK;
  return {
    kind: "wipeDisk",
    id,
    actor: "operator",
    traceparent: undefined,
    serial: "SERIAL1",
    evidenceFingerprint: fingerprint([TABLE, DATA]),
    reason: "to be used here",
    look: { ...place, evidence: [TABLE, DATA], ...look },
    ...change,
  } as const;
}

function decide(row: DiskRow, mutation = asked()) {
  const disks = new Map([[row.id, row]]);
  const state = { now: NOW, revision: 9n, disks, controllers: new Map() };
  try {
    return { row: wipeDisk(state, mutation), refusal: undefined, state };
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    expect(state.disks.get(row.id)).toBe(row);
    return { row: undefined, refusal: error, state };
  }
}

const reasonOf = (row: DiskRow, mutation = asked()) => decide(row, mutation).refusal?.reason;

describe("WipeDisk", () => {
  it("commits what is to be destroyed, once, and takes back an admission", () => {
    const given = diskRow({ ...FOREIGN, wipeEnded: "earlier" });
    const { row, state } = decide(given);
    expect(row).toMatchObject({ generation: 2n, actor: "operator", wipeEnded: undefined });
    expect(row?.wipe).toEqual({
      requestedTime: NOW,
      evidence: [TABLE, DATA],
      reason: "to be used here",
      begun: undefined,
    });
    // A repeat changes nothing, also when less is left on the disk by then.
    expect(wipeDisk(state, asked({}, { evidence: [DATA] }))).toBe(row);
    expect(wipeDisk(state, asked({ look: undefined }))).toBe(row);
    const admission = {
      ...asked(),
      kind: "admitDisk",
      evidence: [],
      discardZeroes: undefined,
    } as const;
    expect(() => admitDisk(state, { ...admission, evidenceFingerprint: undefined })).toThrow(
      expect.objectContaining({ reason: "IN_USE" }),
    );
    const release = { ...asked(), kind: "releaseDisk", force: true, others: undefined } as const;
    expect(() => releaseDisk(state, release)).toThrow(
      expect.objectContaining({ reason: "IN_USE" }),
    );
  });

  it("has nothing to do on a blank disk, whatever was seen of it before", () => {
    const given = diskRow(FOREIGN);
    expect(decide(given, asked({}, { evidence: [] })).row).toBe(given);
  });

  it("is bound to the serial and to the evidence that the caller saw", () => {
    expect(reasonOf(diskRow(FOREIGN), { ...asked(), id: "other" })).toBe("NOT_FOUND");
    expect(reasonOf(diskRow(FOREIGN), asked({ serial: "OTHER" }))).toBe("SERIAL_MISMATCH");
    const stale = asked({ evidenceFingerprint: fingerprint([TABLE]) });
    expect(reasonOf(diskRow(FOREIGN), stale)).toBe("EVIDENCE_CHANGED");
  });

  it.each<readonly [EvidenceKind, string]>([
    ["MOUNTED", "SERIAL1/1p1"],
    ["SWAP", "SERIAL1/1"],
    ["HOLDER", "SERIAL1/1"],
    ["BOOT_DISK", "SERIAL1/1p2"],
    ["EXCLUSIVE_OPEN_REFUSED", "SERIAL1/1"],
    ["UNREADABLE", "SERIAL1/1"],
    ["UNREADABLE", ADDRESS],
    ["DUPLICATE_SERIAL", "SERIAL1"],
    ["NOT_READY", "SERIAL1"],
    ["NOT_READY", ADDRESS],
    ["DRIVER_OVERRIDE", ADDRESS],
  ])("is refused with %s of %s, and lists it", (kind, subject) => {
    const evidence = [TABLE, { kind, subject, detail: "here" }, DATA];
    const refusal = decide(diskRow(FOREIGN), asked({}, { evidence })).refusal;
    expect(refusal?.reason).toBe("HAS_EVIDENCE");
    expect(refusal?.details).toEqual({
      metadata: { evidence: kind },
      preconditions: [{ subject: `disks/${DISK}`, description: `${kind} ${subject} here` }],
    });
  });

  it("is not refused for what forbids only to take the disk, nor for siblings that stay", () => {
    const evidence: Evidence[] = [
      { kind: "NOT_ALLOWED", subject: "SERIAL1", detail: "" },
      { kind: "NO_IOMMU", subject: ADDRESS, detail: "" },
      { kind: "NOT_READY", subject: "0000:02:00.0", detail: "driver vfio-pci" },
      SIBLING,
      TABLE,
      DATA,
    ];
    const siblings = [{ serial: "SERIAL1", nsid: 2 }];
    const stays = asked({}, { evidence, siblings, partitions: false });
    expect(decide(diskRow(FOREIGN), stays).row?.wipe).toBeDefined();
    const goes = asked({}, { evidence, siblings, partitions: true });
    const { refusal } = decide(diskRow(FOREIGN), goes);
    expect(refusal?.message).toContain("SWAP SERIAL1/2p1");
  });

  it("is refused where nobody can look, and on a fabric", () => {
    const blind = decide(diskRow(FOREIGN), asked({ look: undefined })).refusal;
    expect(blind).toMatchObject({
      reason: "HAS_EVIDENCE",
      details: { metadata: { evidence: "NOT_READY" } },
    });
    const fabric = decide(diskRow({ ...FOREIGN, transport: "TCP" })).refusal;
    expect(fabric?.message).toContain("on a fabric");
  });

  it("is refused for a disk of ours before it was released, and always while volumes are on it", () => {
    const ours = { driver: "nvme", admitted: false, admittedSerial: undefined } as const;
    expect(reasonOf(diskRow(ours))).toBe("IN_USE");
    const released = { ...ours, wanted: "release" } as const;
    expect(decide(diskRow(released)).row?.wipe).toBeDefined();
    expect(reasonOf(diskRow({ ...released, lvolCount: 1 }))).toBe("IN_USE");
    expect(reasonOf(diskRow({ ...released, snapshotCount: 1 }))).toBe("IN_USE");
    expect(reasonOf(diskRow({ ...FOREIGN, lvolCount: 1 }))).toBe("IN_USE");
  });
});

describe("what is destroyed", () => {
  const wipe: Wipe = { requestedTime: NOW, evidence: [TABLE, DATA], reason: "", begun: undefined };
  const begun: Wipe = { ...wipe, begun: { time: NOW, functions: [] } };

  it("is exactly what was seen, as long as nothing was written", () => {
    expect(isAsAsked(wipe, [DATA, TABLE])).toBe(true);
    for (const found of [[], [DATA], [TABLE], [TABLE, DATA, SIBLING]]) {
      expect(isAsAsked(wipe, found)).toBe(false);
    }
  });

  it("is what is left of that once it has begun, and nothing that came since", () => {
    for (const found of [[], [DATA], [TABLE], [TABLE, DATA]])
      expect(isAsAsked(begun, found)).toBe(true);
    expect(isAsAsked(begun, [{ ...TABLE, detail: "another one" }])).toBe(false);
    expect(isAsAsked(begun, [DATA, SIBLING])).toBe(false);
  });
});
