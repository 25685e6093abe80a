// A controller of its own, taken by the agent, as its loop sees it.
import { newControllerRow, type ControllerRow } from "../../src/model/controller.ts";
import { fingerprint, type Evidence } from "../../src/model/evidence.ts";
import type { ControllerView } from "../../src/reconcile/controller/view.ts";
import { diskRow } from "./model.ts";

export const START = new Date("2026-11-26T00:00:00Z");
export const RUN = "0123456789abcdef";
const CREATE_STORE = "disk-init/create-store";

export type At = {
  readonly row: ControllerRow;
  readonly now: Date;
  readonly run?: string;
  readonly attached?: boolean;
  /** Refused formats of its disk. */
  readonly formats?: number;
  readonly driver?: string;
  readonly evidence?: readonly Evidence[] | undefined;
};

/** A drive of its own, on vfio-pci, taken by the agent; what failed is what its row says. */
export function viewOf(at: At): ControllerView {
  const { row, now, run = RUN, attached = false, formats = 0, driver = "vfio-pci" } = at;
  const refused = { attempt: formats, message: "not permitted", nextTryTime: now };
  const identity = { serial: "S", model: "M", nsid: 1 };
  const disk = diskRow({
    ...identity,
    transport: "PCIe",
    admittedEvidence: fingerprint([]),
    lvsName: undefined,
    lvsUuid: undefined,
    failures: formats === 0 ? {} : { [CREATE_STORE]: refused },
  });
  const size = { sizeBytes: disk.sizeBytes, blockSize: 512, store: undefined };
  const onTarget = { ...identity, ...size, controllerName: "c", bdevName: "c1n1" };
  const there = {
    row: disk,
    onTarget: attached ? onTarget : undefined,
    evidence: "evidence" in at ? at.evidence : [],
    conflict: undefined,
    claimedBlank: true,
    foundEmpty: false,
    loadEnded: true,
    exportsLeft: 0,
  };
  const member = {
    address: row.id,
    row,
    inKernel: {
      driver,
      driverOverride: undefined,
      iommuGroup: "1",
      identity: undefined,
      namespaces: 0,
    },
    attachedAs: attached ? "sn-some" : undefined,
    disks: [there],
  };
  return {
    ...member,
    now,
    inFlight: false,
    failures: row.failures,
    targetConnected: true,
    targetListed: true,
    kernelListed: true,
    members: [member],
    obstacle: undefined,
    groupUser: undefined,
    elsewhere: false,
    missing: [],
    ownSubjects: new Set(),
    pending: { incarnation: run, epoch: 7n, now, graceUntil: START, earlierMayRun: false },
    writeMode: "read-write",
  };
}

export const taken: ControllerRow = {
  ...newControllerRow("node-1", { id: "0000:01:00.0", serial: "S", model: "M" }, START),
  originalDriver: "nvme",
  members: ["0000:01:00.0"],
  pendingOp: { op: "attach", run: RUN, epoch: 7n, since: START, failed: false },
};
