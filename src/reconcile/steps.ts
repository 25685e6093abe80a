// Every act the agent can do, as data. A plan leaves no choice to its execution: ids, names and sizes
// are in the step. What a step answers is an observation; nothing else comes back from it.
import type { DiskStatusPatch } from "../model/disk.ts";
import type { ListenAddress, LvolStatusPatch } from "../model/lvol.ts";

/** Reads one lvol by name: its uuid once known, else the alias that its id gives it. */
export type ObserveLvol = {
  readonly kind: "observe-lvol";
  readonly name: string;
  readonly lvsUuid: string;
};

export type ObserveSubsystem = { readonly kind: "observe-subsystem"; readonly nqn: string };

export type CreateLvol = {
  readonly kind: "create-lvol";
  readonly lvolName: string;
  readonly lvsUuid: string;
  /** Whole clusters. */
  readonly sizeBytes: bigint;
  readonly thin: boolean;
};

/** Makes a subsystem with everything but its namespace, while the lvol may still be in the making. */
export type PrepareExport = {
  readonly kind: "prepare-export";
  readonly nqn: string;
  readonly serialNumber: string;
  readonly modelNumber: string;
  readonly allowAnyHost: boolean;
  readonly hosts: readonly string[];
  readonly listeners: readonly ListenAddress[];
};

/** Brings hosts and listeners of an existing subsystem to what is wanted; removals go first. */
export type AdjustExport = {
  readonly kind: "adjust-export";
  readonly nqn: string;
  readonly removeHosts: readonly string[];
  readonly addHosts: readonly string[];
  readonly allowAnyHost: boolean | undefined;
  readonly addListeners: readonly ListenAddress[];
};

export type AddNamespace = {
  readonly kind: "add-namespace";
  readonly nqn: string;
  readonly lvolUuid: string;
  readonly uuid: string;
  readonly nguid: string;
};

export type DeleteSubsystem = { readonly kind: "delete-subsystem"; readonly nqn: string };

/** Writes down what is about to be done to an lvol, before it is done. */
export type RecordLvol = { readonly kind: "record-lvol"; readonly patch: LvolStatusPatch };

export type DeleteLvol = { readonly kind: "delete-lvol"; readonly lvolUuid: string };

export type VolumeStep =
  | ObserveLvol
  | ObserveSubsystem
  | CreateLvol
  | PrepareExport
  | AdjustExport
  | AddNamespace
  | DeleteSubsystem
  | RecordLvol
  | DeleteLvol;

/** Writes down what is about to be done, before it is done. */
export type RecordDisk = { readonly kind: "record-disk"; readonly patch: DiskStatusPatch };

/** Takes a PCI function from its kernel driver to vfio-pci, if the evidence of this moment allows. */
export type ClaimDisk = {
  readonly kind: "claim-disk";
  readonly address: string;
  /** A store of ours lies on it: that is no evidence against it, and it is never formatted. */
  readonly ours: boolean;
};

/** Gives a PCI function back to a kernel driver. */
export type ReleaseFunction = {
  readonly kind: "release-function";
  readonly address: string;
  readonly driver: string;
};

export type AttachDisk = {
  readonly kind: "attach-disk";
  readonly controllerName: string;
  readonly trtype: "PCIe" | "TCP" | "RDMA";
  readonly traddr: string;
  readonly trsvcid: string | undefined;
  readonly subnqn: string | undefined;
};

export type DetachDisk = { readonly kind: "detach-disk"; readonly controllerName: string };

/** Formats: everything on the bdev is lost. */
export type CreateStore = {
  readonly kind: "create-store";
  readonly bdevName: string;
  readonly storeName: string;
  readonly clusterBytes: bigint;
};

/** Zeroes every free cluster of a store that nothing else changes meanwhile (DESIGN 3.7). */
export type ZeroFreeSpace = {
  readonly kind: "zero-free-space";
  readonly lvsUuid: string;
  readonly lvsName: string;
};

export type DiskStep =
  RecordDisk | ClaimDisk | ReleaseFunction | AttachDisk | DetachDisk | CreateStore | ZeroFreeSpace;

export type Step = VolumeStep | DiskStep;

/**
 * - observe: reads the target and changes nothing.
 * - restore: brings back what was wanted and recorded before; permitted while the database is away.
 * - change: everything else; needs the lease.
 */
export type StepEffect = "observe" | "restore" | "change";

/** The effect of every step: a new step does not compile before it is listed here. */
export const STEP_EFFECT: Readonly<Record<Step["kind"], StepEffect>> = {
  "observe-lvol": "observe",
  "observe-subsystem": "observe",
  "create-lvol": "change",
  "prepare-export": "restore",
  "adjust-export": "restore",
  "add-namespace": "restore",
  "delete-subsystem": "change",
  "record-lvol": "change",
  "delete-lvol": "change",
  "record-disk": "change",
  "claim-disk": "change",
  "release-function": "change",
  "attach-disk": "restore",
  "detach-disk": "change",
  "create-store": "change",
  "zero-free-space": "change",
};
