// What the disk loops see of one disk: its row, what the kernel shows, what the target shows, and
// what the operator configured.
import type { DiskRow } from "../../model/disk.ts";
import type { Evidence } from "../../model/evidence.ts";
import type { PendingContext } from "../../model/pending-op.ts";
import type { WriteMode } from "../../store/fence.ts";
import type { ObservedDisk } from "../target/observed.ts";

/** A PCIe disk as the kernel shows it; a disk on vfio-pci cannot be looked into. */
export type DiskInKernel = {
  readonly address: string;
  /** Undefined: no driver is bound. */
  readonly driver: string | undefined;
  readonly kernelName: string | undefined;
  /** Undefined: it could not be looked at under its present driver. */
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
  readonly targetConnected: boolean;
  readonly onTarget: ObservedDisk | undefined;
  /** Whether the disks on the target were listed in this run; without that absence means nothing. */
  readonly targetListed: boolean;
  readonly inKernel: DiskInKernel | undefined;
  /** Whether the kernel's disks were listed since the agent started. */
  readonly kernelListed: boolean;
  readonly fabric: FabricEntry | undefined;
  /** Two disks show the same serial, model and namespace. */
  readonly duplicate: boolean;
  /** The evidence of the claim that this agent made since it started: the licence to format. */
  readonly claimedBlank: boolean;
  /** Nothing is being loaded any more: a store that is not there now does not come. */
  readonly loadEnded: boolean;
  /** It was attached as it was found, and no store of ours came up: to be handed back. */
  readonly foundEmpty: boolean;
  readonly fleet: string;
  /** Who asks, for what earlier agents may have left running. */
  readonly pending: PendingContext;
  readonly writeMode: WriteMode;
  /** A delete on this disk may have left its clusters as they were. */
  readonly mayBeDirty: boolean;
};
