// Laws of controller-take, over closures of up to three controllers with up to two disks each: what is never
// done to any of them, whatever is seen of the others.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { newControllerRow, type ControllerRow } from "../../../src/model/controller.ts";
import { ownSubjects } from "../../../src/model/disk-claim.ts";
import type { DiskRow } from "../../../src/model/disk.ts";
import { fingerprint, type Evidence } from "../../../src/model/evidence.ts";
import { diskId } from "../../../src/model/identity.ts";
import { controllerTake } from "../../../src/reconcile/controller/take.ts";
import type { ControllerView, DiskThere, Member } from "../../../src/reconcile/controller/view.ts";
import type { ControllerStep } from "../../../src/reconcile/steps.ts";
import { CLUSTER, diskRow, STORE_UUID } from "../../support/model.ts";

const NOW = new Date("2026-11-26T00:00:00Z");
const RUN = "0123456789abcdef";
const PENDING = {
  incarnation: RUN,
  epoch: 7n,
  now: NOW,
  graceUntil: NOW,
  earlierMayRun: false,
};

const rarely = fc.nat(7).map((n) => n === 7);

const DISK = fc.record({
  admitted: fc.boolean(),
  /** What the row knows: nothing, the name of a store that was to be made, or a store. */
  recorded: fc.constantFrom("nothing", "name", "store"),
  store: fc.boolean(),
  loadEnded: fc.boolean(),
  claimedBlank: fc.boolean(),
  foundEmpty: fc.boolean(),
  evidence: fc.constantFrom("none", "blank", "blank", "mounted"),
  changed: rarely,
  conflict: rarely,
  formatRefused: rarely,
  released: rarely,
  exportsLeft: fc.nat(1),
  small: rarely,
});

const MEMBER = fc.record({
  driver: fc.constantFrom("nvme", "nvme", "vfio-pci", "vfio-pci", undefined, "uio"),
  attached: fc.boolean(),
  taken: fc.boolean(),
  /** Recorded as the other members are, so that a claim may follow. */
  prepared: fc.boolean(),
  setBack: rarely,
  inspect: rarely,
  pendingOp: fc.constantFrom("none", "attach", "detach"),
  disks: fc.array(DISK, { maxLength: 2 }),
});

const CLOSURE = fc.record({
  members: fc.array(MEMBER, { minLength: 1, maxLength: 3 }),
  held: rarely,
  obstacle: rarely,
  missing: rarely,
});

type Parts = typeof CLOSURE extends fc.Arbitrary<infer T> ? T : never;
type MemberParts = Parts["members"][number];

const addressOf = (index: number) => `0000:0${index + 1}:00.0`;

function diskOf(
  of: number,
  nsid: number,
  is: MemberParts["disks"][number],
  attached: boolean,
): DiskThere {
  const identity = { serial: `S${of}`, model: "M", nsid };
  const failure = { attempt: 3, message: "refused", nextTryTime: NOW };
  const row: DiskRow = diskRow({
    ...identity,
    id: diskId(identity),
    transport: "PCIe",
    admitted: is.admitted,
    admittedEvidence: is.changed ? "other" : fingerprint([]),
    lvsName: is.recorded === "nothing" ? undefined : "sn-a-store",
    lvsUuid: is.recorded === "store" ? STORE_UUID : undefined,
    wanted: is.released ? "release" : "take",
    sizeBytes: is.small ? 4_096n : 1_073_741_824n,
    failures: is.formatRefused ? { "disk-init/create-store": failure } : {},
  });
  const store = {
    name: "s",
    uuid: STORE_UUID,
    baseBdev: "n1",
    clusterBytes: CLUSTER,
    totalClusters: 1n,
    freeClusters: 1n,
  };
  const names = { controllerName: "c", bdevName: "n1" };
  const size = { sizeBytes: row.sizeBytes, blockSize: 512 };
  const mounted: Evidence = { kind: "MOUNTED", subject: `S${of}/${nsid}`, detail: "" };
  return {
    row,
    onTarget: attached
      ? { ...identity, ...names, ...size, store: is.store ? store : undefined }
      : undefined,
    evidence: is.evidence === "none" ? undefined : is.evidence === "mounted" ? [mounted] : [],
    conflict: is.conflict ? "seen twice" : undefined,
    claimedBlank: is.claimedBlank,
    foundEmpty: is.foundEmpty,
    loadEnded: is.loadEnded,
    exportsLeft: is.released ? is.exportsLeft : 0,
  };
}

function memberOf(index: number, is: MemberParts, addresses: readonly string[]): Member {
  const id = addressOf(index);
  const attached = is.attached && is.driver === "vfio-pci";
  const isPrepared = is.prepared && is.driver === "nvme";
  const isTaken = is.taken && is.driver !== "nvme";
  const row: ControllerRow = {
    ...newControllerRow("node-1", { id, serial: `S${index}`, model: "M" }, NOW),
    originalDriver: isPrepared || isTaken ? "nvme" : undefined,
    members: isPrepared || isTaken ? addresses : [],
    inspectRequestedTime: is.inspect ? NOW : undefined,
    setback: is.setBack
      ? { attempt: 1, tries: 3, reason: "why", run: RUN, nextTryTime: new Date(NOW.getTime() + 1) }
      : undefined,
    pendingOp:
      is.pendingOp === "none"
        ? undefined
        : { op: is.pendingOp, run: RUN, epoch: 7n, since: NOW, failed: false },
  };
  const disks = is.disks.map((disk, nth) => diskOf(index, nth + 1, disk, attached));
  return {
    address: id,
    row,
    inKernel: {
      driver: is.driver,
      driverOverride: undefined,
      iommuGroup: "1",
      identity: undefined,
      namespaces: is.driver === "nvme" ? disks.length : 0,
    },
    attachedAs: attached ? "sn-some" : undefined,
    disks,
  };
}

/** The views of all members, as one pass of the driver has them. */
function viewsOf(parts: Parts): readonly ControllerView[] {
  const addresses = parts.members.map((_, index) => addressOf(index));
  const members = parts.members.map((is, index) => memberOf(index, is, addresses));
  const rows = members.flatMap(({ disks }) => disks.map(({ row }) => row));
  return members.flatMap((member) =>
    member.row === undefined
      ? []
      : {
          ...member,
          row: member.row,
          now: NOW,
          inFlight: false,
          failures: {},
          targetConnected: true,
          targetListed: true,
          kernelListed: true,
          members,
          obstacle: parts.obstacle ? "NO_HUGEPAGES" : undefined,
          elsewhere: false,
          groupUser: parts.held ? "process 1 (qemu)" : undefined,
          missing: parts.missing ? [diskRow({ transport: "PCIe", serial: "LOST" })] : [],
          ownSubjects: ownSubjects(rows),
          pending: PENDING,
          writeMode: "read-write" as const,
        },
  );
}

type Planned = { readonly view: ControllerView; readonly step: ControllerStep };

/** Whatever is planned for any member of any closure. */
function always(law: (planned: Planned) => void): void {
  fc.assert(
    fc.property(CLOSURE, (parts) => {
      for (const view of viewsOf(parts)) {
        const step = controllerTake.plan(view);
        if (step !== undefined) law({ view, step });
      }
    }),
    { numRuns: 5_000 },
  );
}

const inUse = ({ disks }: Member) =>
  disks.some(
    ({ row, onTarget, loadEnded, exportsLeft }) =>
      onTarget !== undefined &&
      (row.wanted === "take" || exportsLeft > 0) &&
      (exportsLeft > 0 || onTarget.store !== undefined || row.lvsUuid !== undefined || !loadEnded),
  );

const wanted = ({ disks }: Member) =>
  disks.some(({ row }) => row.admitted && row.wanted === "take");

describe("controller-take", () => {
  it("detaches nothing while a disk of the closure is in use, or nobody knows its disks", () => {
    always(({ view, step }) => {
      if (step.kind !== "detach-controller") return;
      expect(view.members.filter(inUse)).toEqual([]);
      const unknown = view.members.filter(
        ({ attachedAs, disks }) => attachedAs !== undefined && disks.length === 0,
      );
      expect(unknown).toEqual([]);
      expect(view.row.pendingOp?.op).toBe("detach");
    });
  });

  it("gives nothing back while a member is attached, or another process has the group", () => {
    always(({ view, step }) => {
      if (step.kind !== "release-controllers") return;
      expect(view.members.filter(({ attachedAs }) => attachedAs !== undefined)).toEqual([]);
      expect(view.groupUser).toBeUndefined();
      for (const { address, driver } of step.returns) {
        const member = view.members.find((one) => one.address === address);
        expect(driver).toBe("nvme");
        expect(member?.row?.originalDriver).toBe("nvme");
        // What may have a store of ours is attached first, unless a call or a failure says otherwise.
        const { inspectRequestedTime, setback } = member?.row ?? {};
        const forced =
          inspectRequestedTime ?? setback ?? !(member?.inKernel?.driver === "vfio-pci");
        const ours = member?.disks.filter(({ row }) => row.lvsUuid && row.wanted === "take");
        if (forced === false) expect(ours).toEqual([]);
      }
    });
  });

  it("claims only closures of which every disk may be taken, and with the way back recorded", () => {
    always(({ view, step }) => {
      if (step.kind !== "claim-controllers") return;
      expect(view.groupUser ?? view.obstacle).toBeUndefined();
      const moving = view.members.filter(({ inKernel }) => inKernel?.driver === "nvme");
      expect(step.addresses).toEqual(moving.map(({ address }) => address));
      for (const member of moving) {
        expect(wanted(member)).toBe(true);
        expect(member.row?.originalDriver).toBe("nvme");
        expect(member.row?.setback).toBeUndefined();
        for (const { row, evidence, conflict } of member.disks) {
          expect(step.disks).toContain(row.id);
          expect(conflict).toBeUndefined();
          expect(evidence).toEqual([]);
          const isStale = row.admitted && row.admittedEvidence !== fingerprint([]);
          expect(isStale && row.lvsUuid === undefined).toBe(false);
        }
      }
    });
  });

  it("attaches only what it has taken, or what may be a missing disk, and nobody else has open", () => {
    always(({ view, step }) => {
      if (step.kind !== "attach-controller") return;
      expect(view.inKernel?.driver).toBe("vfio-pci");
      expect(view.attachedAs).toBeUndefined();
      expect(view.groupUser).toBeUndefined();
      if (view.row.originalDriver === undefined) expect(view.missing).not.toEqual([]);
      expect(view.row.pendingOp?.op).toBe("attach");
    });
  });

  it("plans one claim and one give-back for a closure, and never both", () => {
    fc.assert(
      fc.property(CLOSURE, (parts) => {
        const steps = viewsOf(parts).flatMap((view) => controllerTake.plan(view) ?? []);
        const kinds = steps.map(({ kind }) => kind);
        const moves = kinds.filter((kind) => /^(claim|release)-/.test(kind));
        expect(moves.length).toBeLessThan(2);
      }),
      { numRuns: 5_000 },
    );
  });
});
