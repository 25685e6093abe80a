// The view of one disk that its loop plans from: its row, what the kernel and the target show of
// it, and its entry in the configuration.
import type { Setback } from "../../model/controller.ts";
import type { DiskRow } from "../../model/disk.ts";
import type { StepFailures } from "../../model/failure.ts";
import type { Evidence } from "../../model/evidence.ts";
import type { UnknownOutcome } from "../../model/unknown-outcome.ts";
import type { PendingContext } from "../../model/pending-op.ts";
import type { SeenHealth } from "../../model/seen-health.ts";
import type { DiskSpace, SpaceThresholds } from "../../model/space.ts";
import type { WriteMode } from "../../store/fence.ts";
import type { Slice } from "./slices.ts";
import type { ObservedDisk } from "../target/observed-disk.ts";

/** A PCIe disk as the kernel shows it. The kernel cannot read a disk that is bound to vfio-pci. */
export type DiskInKernel = {
  readonly address: string;
  /** Undefined when no driver is bound. */
  readonly driver: string | undefined;
  readonly kernelName: string | undefined;
  /** The agent has taken its controller from the kernel, and not given it back. */
  readonly taken: boolean;
  /** 32 and 16 hexadecimal digits; undefined: not read, or the drive shows none. */
  readonly nguid?: string | undefined;
  readonly eui64?: string | undefined;
  /** Undefined when no evidence was gathered under the present driver. */
  readonly evidence: readonly Evidence[] | undefined;
};

/** An entry of STORAGE_NODE_FABRIC_DISKS. */
export type FabricEntry = {
  readonly trtype: "TCP" | "RDMA";
  readonly traddr: string;
  readonly trsvcid: string;
  readonly subnqn: string;
  readonly format: boolean;
};

export type DiskView = {
  readonly row: DiskRow;
  readonly now: Date;
  readonly inFlight: boolean;
  readonly failures: StepFailures;
  readonly targetConnected: boolean;
  readonly onTarget: ObservedDisk | undefined;
  /** Undefined: no lvstore of it is known. */
  readonly space: DiskSpace | undefined;
  readonly spaceThresholds: SpaceThresholds;
  /**
   * Whether the disks on the target were listed in this incarnation; until then absence is unknown.
   */
  readonly targetListed: boolean;
  /** Something that was sent before, by whatever agent, may still attach it; steps of its own loop aside. */
  readonly attachMayRun: boolean;
  readonly inKernel: DiskInKernel | undefined;
  /** Whether the kernel's disks were listed since the agent started. */
  readonly kernelListed: boolean;
  readonly fabric: FabricEntry | undefined;
  /** Why its identity is not certain, such as a second disk that shows it; undefined: it is. */
  readonly conflict: string | undefined;
  /** Subjects of evidence that are disks with a store of this node: `serial/nsid`. */
  readonly ownSubjects: ReadonlySet<string>;
  /** The claim of its controller failed for good: why, and when it is tried again; undefined: it did not. */
  readonly setback: Pick<Setback, "reason" | "nextTryTime"> | undefined;
  /** What its controller waits for, or fails at; on a fabric why it must not be attached; undefined: nothing. */
  readonly waits: string | undefined;
  /** This process found the disk blank in the claim it still holds: the disk may be formatted. */
  readonly claimedBlank: boolean;
  /** SPDK has finished loading lvstores since this observation, and the disk still has none. */
  readonly loadEnded: boolean;
  /** Of a disk that is to be released: its volumes whose exports are not seen to be gone. */
  readonly exportsLeft: number;
  /** Serials of other disks that are in use, and cannot be detached from under their hosts with it. */
  readonly heldBy: readonly string[];
  /** A change of the disk whose outcome is not known; undefined: there is none. */
  readonly outcomeUnknown: UnknownOutcome | undefined;
  readonly fleet: string;
  /** For deciding whether a pending op of an earlier agent may still be running. */
  readonly pending: PendingContext;
  readonly writeMode: WriteMode;
  /** Lvols over free clusters that are to be zeroed; undefined: not listed yet. */
  readonly slices: readonly Slice[] | undefined;
  /** The agent zeroes free space without being asked. */
  readonly zeroesByItself: boolean;
  /** Nothing is zeroed before then that nobody has asked for. */
  readonly zeroingRests: Date | undefined;
  /** Hosts may return clusters to the store, by discards, with what stands in them. */
  readonly hostsMayFree: boolean;
  /** As this agent has last seen it; undefined: it has not looked yet. */
  readonly health?: SeenHealth | undefined;
  /** Free clusters may hold old bytes: of a delete that did not clear them, or by hostsMayFree. */
  readonly mayBeDirty: boolean;
};

/** Whether a disk's row changed in a column that plans of its volumes depend on. */
export function concernsVolumes(before: DiskRow | undefined, now: DiskRow | undefined): boolean {
  return (
    before?.state !== now?.state ||
    before?.wanted !== now?.wanted ||
    before?.lvsUuid !== now?.lvsUuid ||
    before?.freeSpace !== now?.freeSpace ||
    before?.health !== now?.health ||
    before?.copyingRun !== now?.copyingRun
  );
}

/** Whether a disk's row changed in a column that plans of its controllers depend on. */
export function concernsControllers(
  before: DiskRow | undefined,
  now: DiskRow | undefined,
): boolean {
  return (
    before?.generation !== now?.generation ||
    before?.lvsUuid !== now?.lvsUuid ||
    before?.lvsName !== now?.lvsName ||
    before?.failures !== now?.failures
  );
}
