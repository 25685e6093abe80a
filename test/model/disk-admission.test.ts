// Admission of disks: what it needs, what it is bound to, and what ends it.
import { describe, expect, it } from "vitest";
import {
  admitDisk,
  endAdmission,
  inspectController,
  type AdmitDisk,
} from "../../src/model/disk-admission.ts";
import { newControllerRow, type ControllerRow } from "../../src/model/controller.ts";
import type { DiskRow } from "../../src/model/disk.ts";
import { Refusal } from "../../src/model/errors.ts";
import { fingerprint, type Evidence } from "../../src/model/evidence.ts";
import { DISK, diskRow } from "../support/model.ts";

const NOW = new Date("2026-11-26T00:00:00Z");
const MOUNTED: Evidence = { kind: "MOUNTED", subject: "SERIAL1/1p1", detail: "on /data" };
const TABLE: Evidence = { kind: "PARTITION_TABLE", subject: "SERIAL1/1", detail: "GPT" };
const SIBLING: Evidence = { kind: "SWAP", subject: "SERIAL1/2", detail: "swap space in use" };
const NO_IOMMU: Evidence = { kind: "NO_IOMMU", subject: "0000:01:00.0", detail: "none" };

const kernelDisk = (change: Partial<DiskRow> = {}) =>
  diskRow({
    transport: "PCIe",
    admitted: false,
    lvsUuid: undefined,
    state: "DISCOVERED",
    ...change,
  });

const stateOf = (row: DiskRow, controllers: readonly ControllerRow[] = []) => ({
  now: NOW,
  revision: 1n,
  disks: new Map([[row.id, row]]),
  controllers: new Map(controllers.map((one) => [one.id, one])),
});

const INTENT = { id: DISK, actor: "operator", traceparent: undefined };

function admission(change: Partial<AdmitDisk> = {}) {
  const serial = "SERIAL1";
  const blank = { evidenceFingerprint: undefined, evidence: [], discardZeroes: undefined };
  return { ...INTENT, kind: "admitDisk", serial, ...blank, ...change } as const;
}

function refusal(act: () => unknown): Refusal {
  try {
    act();
  } catch (error) {
    if (error instanceof Refusal) return error;
    throw error;
  }
  throw new Error("not refused");
}

describe("AdmitDisk", () => {
  it("is bound to the serial, and to the evidence that the caller saw", () => {
    const given = stateOf(kernelDisk());
    const wrong = admission({ serial: "OTHER" });
    expect(refusal(() => admitDisk(given, wrong)).reason).toBe("SERIAL_MISMATCH");
    const stale = admission({ evidenceFingerprint: "xyz" });
    expect(refusal(() => admitDisk(given, stale)).reason).toBe("EVIDENCE_CHANGED");
    expect(admitDisk(given, admission())).toMatchObject({
      admitted: true,
      admittedSerial: "SERIAL1",
      admittedEvidence: fingerprint([]),
      generation: 2n,
    });
  });

  it("is refused while there is evidence against the disk or a sibling, and lists all of it", () => {
    const given = stateOf(kernelDisk());
    const evidence = [MOUNTED, TABLE, SIBLING, NO_IOMMU];
    const refused = refusal(() => admitDisk(given, admission({ evidence })));
    expect(refused.reason).toBe("HAS_EVIDENCE");
    expect(refused.details.preconditions?.map(({ description }) => description)).toEqual([
      "MOUNTED SERIAL1/1p1 on /data",
      "PARTITION_TABLE SERIAL1/1 GPT",
      "SWAP SERIAL1/2 swap space in use",
    ]);
    expect(given.disks.get(DISK)?.admitted).toBe(false);
  });

  it("is refused for a disk that nobody can look at where it is", () => {
    const given = stateOf(kernelDisk());
    const unseen = admission({ evidence: undefined });
    expect(refusal(() => admitDisk(given, unseen)).reason).toBe("HAS_EVIDENCE");
  });

  it("is not refused for what is the node's fault, or not on the allow list", () => {
    const listed: Evidence = { kind: "NOT_ALLOWED", subject: "SERIAL1", detail: "" };
    const evidence = [NO_IOMMU, listed];
    const row = admitDisk(stateOf(kernelDisk()), admission({ evidence }));
    expect(row).toMatchObject({ admitted: true, admittedEvidence: fingerprint([]) });
  });

  it("has a controller that was given back tried again at once", () => {
    const row = kernelDisk({ state: "FAILED" });
    const setback = { attempt: 3, tries: 5, reason: "why", run: "run", nextTryTime: NOW };
    const { serial, model } = row;
    const at = (id: string, change: Partial<ControllerRow>) => ({
      ...newControllerRow("node-1", { id, serial, model }, NOW),
      setback,
      ...change,
    });
    const given = stateOf(row, [at("a", {}), at("b", { serial: "OTHER" })]);
    admitDisk(given, admission());
    expect(given.controllers.get("a")).toMatchObject({ setback: undefined, generation: 2n });
    expect(given.controllers.get("b")?.setback).toBe(setback);
  });

  it("is not refused for the store of this node on another namespace of the drive", () => {
    const row = kernelDisk();
    const given = stateOf(row);
    const sibling = { ...row, id: "sibling", nsid: 2, lvsUuid: DISK };
    given.disks.set(sibling.id, sibling);
    const store: Evidence = { kind: "SPDK_BLOBSTORE", subject: `${row.serial}/2`, detail: "lvs" };
    expect(admitDisk(given, admission({ evidence: [store] })).admitted).toBe(true);
    given.disks.set(sibling.id, { ...sibling, lvsUuid: undefined });
    const asked = { ...admission({ evidence: [store] }), id: DISK };
    given.disks.set(row.id, row);
    expect(refusal(() => admitDisk(given, asked)).reason).toBe("HAS_EVIDENCE");
  });

  it("needs no look at a disk with a store of this node, nor at one on a fabric", () => {
    for (const change of [{ lvsUuid: DISK }, { transport: "TCP" }] as const) {
      const unseen = admission({ evidence: undefined });
      expect(admitDisk(stateOf(kernelDisk(change)), unseen).admitted).toBe(true);
    }
  });

  it("tries a FAILED disk again, and does not change an admitted one that is UP", () => {
    for (const [was, generation] of [["UP", 1n] as const, ["FAILED", 2n] as const]) {
      const row = diskRow({ state: was, attempt: 3 });
      expect(admitDisk(stateOf(row), admission({ evidence: undefined }))).toMatchObject({
        generation,
        attempt: was === "UP" ? 3 : 0,
      });
    }
  });
});

describe("AdmitDisk by address", () => {
  const address = "0000:01:00.0";
  const ask = (change: Partial<ControllerRow>, serial?: string) => {
    const controller = { ...newControllerRow("node-1", { id: address }, NOW), ...change };
    const given = stateOf(kernelDisk(), [controller]);
    const asked = { kind: "inspectController", groupUser: undefined, serial } as const;
    return () => inspectController(given, { ...INTENT, id: address, ...asked });
  };
  const found = { driver: "vfio-pci", state: "UNIDENTIFIED" } as const;

  it("has a function looked at that is on vfio-pci, unless the agent holds it", () => {
    expect(ask(found)()).toMatchObject({ inspectRequestedTime: NOW, generation: 2n });
    const held = { ...found, originalDriver: "nvme" };
    for (const state of ["CLAIMED", "ATTACHED", "FAILED"] as const) {
      expect(refusal(ask({ ...held, state })).reason).toBe("IN_USE");
    }
    expect(refusal(ask({ ...found, state: "MISSING" })).reason).toBe("NOT_FOUND");
    const shown = { driver: "nvme", serial: "S" };
    expect(ask(shown, "S")()).toMatchObject({ inspectSerial: "S" });
    expect(refusal(ask(shown, "OTHER")).reason).toBe("SERIAL_MISMATCH");
    // Nobody knows what is there.
    expect(ask({ ...found, serial: "S" }, "OTHER")()).toMatchObject({ inspectSerial: "OTHER" });
    // It is being handed back, as a call has asked before.
    const again = { ...held, inspectRequestedTime: NOW };
    expect(ask({ ...again, state: "CLAIMED" })()).toMatchObject({ generation: 1n });
    const other = ask({ ...again, state: "CLAIMED" }, "S")();
    expect(other).toMatchObject({ inspectSerial: "S", generation: 2n });
  });
});

describe("an admission", () => {
  const admitted = (change: Partial<DiskRow> = {}) =>
    kernelDisk({
      admitted: true,
      admittedSerial: "SERIAL1",
      admittedEvidence: fingerprint([]),
      ...change,
    });
  const end = (row: DiskRow, evidence: readonly Evidence[]) =>
    endAdmission(stateOf(row), { ...INTENT, kind: "endAdmission", evidence });

  it("ends when the disk is put to use, and says why", () => {
    const row = end(admitted(), [MOUNTED]);
    expect(row).toMatchObject({ admitted: false, admittedSerial: undefined, generation: 2n });
    expect(row.admissionEnded).toContain("MOUNTED SERIAL1/1p1 on /data");
  });

  it("ends when what was on the disk is gone, too", () => {
    expect(end(admitted({ admittedEvidence: fingerprint([TABLE]) }), []).admitted).toBe(false);
  });

  it("outlasts what is of the driver, the node or a sibling", () => {
    const row = admitted();
    const unready: Evidence = { kind: "NOT_READY", subject: "SERIAL1", detail: "resetting" };
    expect(end(row, [NO_IOMMU, unready, SIBLING])).toBe(row);
  });

  it("of a disk with a store of this node never ends", () => {
    const row = admitted({ lvsUuid: DISK });
    expect(end(row, [MOUNTED, TABLE])).toBe(row);
  });

  it("that ended begins anew with the next call", () => {
    const row = admitDisk(stateOf(end(admitted(), [MOUNTED])), admission());
    expect(row).toMatchObject({ admitted: true, admissionEnded: undefined });
  });
});
