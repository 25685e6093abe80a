// The view of one controller that its loop plans from: its row, what the kernel and the target show of
// it, the disks on it, and the same of the controllers that are taken together with it.
import type { ControllerRow } from "../../model/controller.ts";
import type { DiskRow } from "../../model/disk.ts";
import type { Evidence } from "../../model/evidence.ts";
import type { StepFailures } from "../../model/failure.ts";
import type { PendingContext } from "../../model/pending-op.ts";
import type { WriteMode } from "../../store/fence.ts";
import type { ObservedDisk } from "../target/observed-disk.ts";

/** A PCI function as the kernel shows it. */
export type FunctionInKernel = {
  /** Undefined: none is bound. */
  readonly driver: string | undefined;
  readonly driverOverride: string | undefined;
  readonly iommuGroup: string | undefined;
  /** Of the drive, as the kernel's driver reads it; undefined: it shows no live controller with a serial. */
  readonly identity: { readonly serial: string; readonly model: string } | undefined;
  /** Namespaces that the kernel's driver shows. */
  readonly namespaces: number;
};

/** A disk that is on the controller now, or is expected there as nobody can look. */
export type DiskThere = {
  readonly row: DiskRow;
  readonly onTarget: ObservedDisk | undefined;
  /** As found by the latest look under the kernel's driver; undefined: there was none. */
  readonly evidence: readonly Evidence[] | undefined;
  /** Why its identity is not certain; undefined: nothing else has it. */
  readonly conflict: string | undefined;
  /** This process found the disk blank in the claim that it still holds. */
  readonly claimedBlank: boolean;
  /** It was attached without being found blank, and no lvstore was loaded. */
  readonly foundEmpty: boolean;
  /** SPDK has finished loading lvstores, and the disk still has none. */
  readonly loadEnded: boolean;
  /** Of a disk that is to be released: its volumes whose exports are not seen to be gone. */
  readonly exportsLeft: number;
};

export type Member = {
  readonly address: string;
  /** Undefined: it has none yet. */
  readonly row: ControllerRow | undefined;
  readonly inKernel: FunctionInKernel | undefined;
  /** Its name on the target; undefined: it is not attached. */
  readonly attachedAs: string | undefined;
  readonly disks: readonly DiskThere[];
};

export type ControllerView = Member & {
  readonly row: ControllerRow;
  readonly now: Date;
  readonly inFlight: boolean;
  readonly failures: StepFailures;
  readonly targetConnected: boolean;
  readonly targetListed: boolean;
  readonly kernelListed: boolean;
  /** What is taken together with it, by address, itself included (docs/architecture.md#closures). */
  readonly members: readonly Member[];
  /** What forbids any claim on this node, such as a missing module; undefined: nothing. */
  readonly obstacle: string | undefined;
  /** Who else has the vfio group of a member open; undefined: nobody. */
  readonly groupUser: string | undefined;
  /** A disk on it has a row of another node of the fleet, which has not released it. */
  readonly elsewhere: boolean;
  /** Disks of this node, with a store, that are to be taken and are seen nowhere. */
  readonly missing: readonly DiskRow[];
  /** Subjects of evidence that are disks with a store of this node: `serial/nsid`. */
  readonly ownSubjects: ReadonlySet<string>;
  readonly pending: PendingContext;
  readonly writeMode: WriteMode;
};
