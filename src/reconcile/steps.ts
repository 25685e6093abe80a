// Every step that the agent can take, as data. A step contains all ids, names and sizes, so
// performing it makes no decisions. Its result is stored as an observation; it returns nothing to
// the plan.
import type { ControllerStatusPatch } from "../model/controller.ts";
import type { DiskStatusPatch } from "../model/disk.ts";
import type { ListenAddress, LvolStatusPatch, QosLimits } from "../model/lvol.ts";
import type { SnapshotStatusPatch } from "../model/snapshot.ts";

/** Reads one lvol by name: its uuid once known, else its alias `<lvstore name>/<volume id>`. */
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
  /** A multiple of the cluster size. */
  readonly sizeBytes: bigint;
  readonly thin: boolean;
};

/** Creates a subsystem with its hosts, while the lvol may still be in the making. No host can reach it. */
export type PrepareExport = {
  readonly kind: "prepare-export";
  readonly nqn: string;
  readonly serialNumber: string;
  readonly modelNumber: string;
  /** Logical blocks that one range of a host's discard may have; undefined: as SPDK chooses. */
  readonly dmrsl: number | undefined;
  readonly allowAnyHost: boolean;
  readonly hosts: readonly string[];
};

export type AllowHost = {
  readonly kind: "allow-host";
  readonly nqn: string;
  readonly host: string;
};

/** Takes a host's access away and reads back that the host is gone. */
export type DenyHost = { readonly kind: "deny-host"; readonly nqn: string; readonly host: string };

export type SetAnyHost = {
  readonly kind: "set-any-host";
  readonly nqn: string;
  readonly allowAnyHost: boolean;
};

/** Makes the export reachable at one address: the last step, once the namespace is there. */
export type AddListener = {
  readonly kind: "add-listener";
  readonly nqn: string;
  readonly address: ListenAddress;
};

export type RemoveListener = {
  readonly kind: "remove-listener";
  readonly nqn: string;
  readonly address: ListenAddress;
};

export type AddNamespace = {
  readonly kind: "add-namespace";
  readonly nqn: string;
  readonly lvolUuid: string;
  readonly uuid: string;
  readonly nguid: string;
};

/**
 * Ends an export. Unforced: listeners first, and they are put back if a host is connected after all.
 * Forced: namespace first, so that the I/O of a connected host fails at once instead of hanging.
 */
export type EndExport = {
  readonly kind: "end-export";
  readonly nqn: string;
  readonly forced: boolean;
  readonly listeners: readonly ListenAddress[];
  /** A namespace with nsid 1 is there. */
  readonly attached: boolean;
};

/** Records in the volume's row what is about to be done to its lvol. */
export type RecordLvol = { readonly kind: "record-lvol"; readonly patch: LvolStatusPatch };

/** Grows an lvol, and reads back what size it has then. */
export type ResizeLvol = {
  readonly kind: "resize-lvol";
  readonly lvolUuid: string;
  /** A multiple of the cluster size, larger than the lvol is. */
  readonly sizeBytes: bigint;
};

/** Sets all limits of an exported lvol, and reads back what they are then. */
export type SetQos = {
  readonly kind: "set-qos";
  readonly nqn: string;
  readonly lvolUuid: string;
  readonly limits: QosLimits;
};

export type DeleteLvol = { readonly kind: "delete-lvol"; readonly lvolUuid: string };

/** Makes an lvol without data the clone of a snapshot of its size. */
export type SetParent = {
  readonly kind: "set-parent";
  readonly lvolUuid: string;
  readonly parentUuid: string;
};

/** Allocates all clusters of an lvol, with the data of its snapshots: it has no parent any more. */
export type InflateLvol = { readonly kind: "inflate-lvol"; readonly lvolUuid: string };

/** Gives an lvol its volume's id as its name. */
export type RenameLvol = {
  readonly kind: "rename-lvol";
  readonly lvolUuid: string;
  readonly lvsUuid: string;
  readonly newName: string;
};

export type VolumeStep =
  | ObserveLvol
  | ObserveSubsystem
  | CreateLvol
  | SetParent
  | ResizeLvol
  | InflateLvol
  | PrepareExport
  | AllowHost
  | DenyHost
  | SetAnyHost
  | AddNamespace
  | AddListener
  | RemoveListener
  | EndExport
  | SetQos
  | RecordLvol
  | DeleteLvol
  | RenameLvol;

/** Reads one snapshot by name: its uuid once known, else its alias `<lvstore name>/<snapshot id>`. */
export type ObserveSnapshot = {
  readonly kind: "observe-snapshot";
  readonly name: string;
  readonly lvsUuid: string;
};

/** Takes a snapshot: the volume becomes its thin clone. */
export type CreateSnapshot = {
  readonly kind: "create-snapshot";
  readonly lvsUuid: string;
  readonly sourceId: string;
  readonly sourceUuid: string;
  readonly snapshotName: string;
};

/** Deletes a snapshot with at most one clone, which takes over its data. */
export type DeleteSnapshot = {
  readonly kind: "delete-snapshot";
  readonly lvsUuid: string;
  readonly lvolUuid: string;
  /** Ids of volumes and snapshots that are read again, as their parent and data change. */
  readonly cloneIds: readonly string[];
};

/** Records in the snapshot's row what is about to be done to it. */
export type RecordSnapshot = {
  readonly kind: "record-snapshot";
  readonly patch: SnapshotStatusPatch;
};

export type SnapshotStep = ObserveSnapshot | CreateSnapshot | DeleteSnapshot | RecordSnapshot;

/** Records in the disk's row what is about to be done to the disk. */
export type RecordDisk = { readonly kind: "record-disk"; readonly patch: DiskStatusPatch };

/** Attaches a disk on a fabric. */
export type AttachDisk = {
  readonly kind: "attach-disk";
  readonly controllerName: string;
  readonly trtype: "TCP" | "RDMA";
  readonly traddr: string;
  readonly trsvcid: string;
  readonly subnqn: string;
};

/** Creates an lvstore: formats the bdev, all data on it is lost. */
export type CreateStore = {
  readonly kind: "create-store";
  readonly bdevName: string;
  readonly storeName: string;
  readonly clusterBytes: bigint;
};

/** Detaches the controller of a disk on a fabric. */
export type DetachDisk = { readonly kind: "detach-disk"; readonly controllerName: string };

/** Gives an adopted lvstore the name of one of this node. */
export type RenameStore = {
  readonly kind: "rename-store";
  readonly lvsUuid: string;
  readonly oldName: string;
  readonly newName: string;
};

/** Reads which slices of free space there are on a disk (docs/architecture.md#zeroing-of-free-space). */
export type ObserveSlices = { readonly kind: "observe-slices"; readonly lvsUuid: string };

/** Makes slices of all free clusters of an lvstore, while nothing else may change it. */
export type PinFreeSpace = { readonly kind: "pin-free-space"; readonly lvsUuid: string };

/** Deletes one slice, which clears its clusters. */
export type ZeroSlice = {
  readonly kind: "zero-slice";
  readonly lvsUuid: string;
  readonly lvolUuid: string;
  readonly name: string;
};

/** Zeroes the beginning and the end of a disk under its kernel driver, unless it is not as it was asked for. */
export type WipeDisk = { readonly kind: "wipe-disk"; readonly address: string };

export type DiskStep =
  | RecordDisk
  | AttachDisk
  | DetachDisk
  | CreateStore
  | RenameStore
  | ObserveSlices
  | PinFreeSpace
  | ZeroSlice
  | WipeDisk;

/** Records in the controller's row what is about to be done to it. */
export type RecordController = {
  readonly kind: "record-controller";
  readonly patch: ControllerStatusPatch;
};

/**
 * Rebinds all functions of a closure from their kernel driver to vfio-pci, unless present evidence is
 * against one of them.
 */
export type ClaimControllers = {
  readonly kind: "claim-controllers";
  readonly addresses: readonly string[];
  /** Ids of all disks on them. */
  readonly disks: readonly string[];
};

/** Gives functions back to the kernel drivers that they were taken from; undefined: leaves them without. */
export type ReleaseControllers = {
  readonly kind: "release-controllers";
  readonly returns: readonly { readonly address: string; readonly driver: string | undefined }[];
};

export type AttachController = {
  readonly kind: "attach-controller";
  readonly controllerName: string;
  readonly traddr: string;
};

export type DetachController = {
  readonly kind: "detach-controller";
  readonly controllerName: string;
};

export type ControllerStep =
  RecordController | ClaimControllers | ReleaseControllers | AttachController | DetachController;

export type Step = VolumeStep | SnapshotStep | DiskStep | ControllerStep;

/** Sent twice, these do no harm whatever became of the first (docs/architecture.md#r2-unknown-outcomes). */
export const REPEATABLE: ReadonlySet<Step["kind"]> = new Set([
  "allow-host",
  "deny-host",
  "set-any-host",
  "add-listener",
  "remove-listener",
]);

/**
 * The change that a step sends to the target, or the first one; undefined: it sends none. By such a
 * change the target may die.
 */
export const STEP_SENDS: Readonly<Record<Step["kind"], string | undefined>> = {
  "observe-lvol": undefined,
  "observe-subsystem": undefined,
  "create-lvol": "bdev_lvol_create",
  "set-parent": "bdev_lvol_set_parent",
  "inflate-lvol": "bdev_lvol_inflate",
  "observe-snapshot": undefined,
  "create-snapshot": "bdev_lvol_snapshot",
  "delete-snapshot": "bdev_lvol_delete",
  "record-snapshot": undefined,
  "prepare-export": "nvmf_create_subsystem",
  "allow-host": "nvmf_subsystem_add_host",
  "deny-host": "nvmf_subsystem_remove_host",
  "set-any-host": "nvmf_subsystem_allow_any_host",
  "add-namespace": "nvmf_subsystem_add_ns",
  "add-listener": "nvmf_subsystem_add_listener",
  "remove-listener": "nvmf_subsystem_remove_listener",
  "end-export": "nvmf_delete_subsystem",
  "set-qos": "bdev_set_qos_limit",
  "record-lvol": undefined,
  "resize-lvol": "bdev_lvol_resize",
  "delete-lvol": "bdev_lvol_delete",
  "rename-lvol": "bdev_lvol_rename",
  "record-disk": undefined,
  "attach-disk": "bdev_nvme_attach_controller",
  "detach-disk": "bdev_nvme_detach_controller",
  "rename-store": "bdev_lvol_rename_lvstore",
  "record-controller": undefined,
  "claim-controllers": undefined,
  "release-controllers": undefined,
  "attach-controller": "bdev_nvme_attach_controller",
  "detach-controller": "bdev_nvme_detach_controller",
  "create-store": "bdev_lvol_create_lvstore",
  "observe-slices": undefined,
  "pin-free-space": "bdev_lvol_create",
  "zero-slice": "bdev_lvol_delete",
  "wipe-disk": undefined,
};

/**
 * - observe: reads the target and changes nothing.
 * - restore: restores what was wanted and recorded before; permitted without the database.
 * - change: everything else; needs the lease.
 */
export type StepEffect = "observe" | "restore" | "change";

/** The effect of every step: a new step does not compile before it is listed here. */
export const STEP_EFFECT: Readonly<Record<Step["kind"], StepEffect>> = {
  "observe-lvol": "observe",
  "observe-subsystem": "observe",
  "create-lvol": "change",
  "set-parent": "change",
  "inflate-lvol": "change",
  "observe-snapshot": "observe",
  "create-snapshot": "change",
  "delete-snapshot": "change",
  "record-snapshot": "change",
  "prepare-export": "restore",
  "allow-host": "restore",
  "deny-host": "restore",
  "set-any-host": "restore",
  "add-namespace": "restore",
  "add-listener": "restore",
  "remove-listener": "restore",
  "end-export": "change",
  "set-qos": "restore",
  "record-lvol": "change",
  "resize-lvol": "change",
  "delete-lvol": "change",
  "rename-lvol": "change",
  "record-disk": "change",
  "attach-disk": "restore",
  "detach-disk": "change",
  "rename-store": "change",
  "record-controller": "change",
  "claim-controllers": "change",
  "release-controllers": "change",
  "attach-controller": "restore",
  "detach-controller": "change",
  "create-store": "change",
  "observe-slices": "observe",
  "pin-free-space": "change",
  "zero-slice": "change",
  "wipe-disk": "change",
};
