// What an operator does about each kind of evidence against a disk.
import type { EvidenceKind } from "../model/evidence.ts";
import { IOMMU_CURE } from "./setup.ts";

const WIPE = "if nobody needs what is on it, call WipeDisk (storage-node disk wipe ID)";

export const EVIDENCE_CURES: Readonly<Record<EvidenceKind, string>> = {
  MOUNTED: "unmount it",
  SWAP: "swapoff it",
  HOLDER: "take it out of its device mapper or md device",
  PARTITION_TABLE: WIPE,
  SIGNATURE: WIPE,
  SPDK_BLOBSTORE:
    "it holds an lvstore without a row of this node: AdoptDisk with validateOnly (storage-node disk adopt ID) lists " +
    "what lies in it; see storage-node rebuild if the rows of the node are lost, or WipeDisk if nobody needs it",
  NONZERO_DATA: WIPE,
  EXCLUSIVE_OPEN_REFUSED: "end the process that has it open (lsof, fuser)",
  BOOT_DISK: "do not use it: the system runs from it",
  NOT_ALLOWED: "call AdmitDisk with its serial, or add it to STORAGE_NODE_DISK_ALLOW",
  IOMMU_GROUP_SHARED:
    "take the other functions of its IOMMU group from their drivers, or use another slot",
  NO_IOMMU: IOMMU_CURE,
  DRIVER_OVERRIDE: "if nobody needs it, echo > /sys/bus/pci/devices/ADDRESS/driver_override",
  VFIO_IN_USE:
    "end the process that has its vfio group open (fuser /dev/vfio/GROUP /dev/vfio/devices/*)",
  NOT_READY: "let the kernel's nvme driver have it; dmesg says why it does not",
  UNREADABLE: "make it readable: dmesg says why it is not",
  DUPLICATE_SERIAL: "take one of the two disks with this serial out",
  FOREIGN_STORE:
    "it holds an lvstore of another owner: give it back, or WipeDisk if nobody needs it",
};
