// What can stand in the way of a disk, one function each; the first that applies is the cause.
import { formatBytes } from "../model/bytes.ts";
import { refusing } from "../model/disk-claim.ts";
import { promisableBytes, type DiskRow, type DiskState } from "../model/disk.ts";
import type { Evidence, EvidenceKind } from "../model/evidence.ts";
import {
  instant,
  nodeCause,
  unresponsiveTargetCause,
  targetCause,
  type NextStep,
  type NodeFacts,
  type Cause,
} from "./explanation.ts";

export type DiskFacts = {
  readonly row: DiskRow;
  /** As clients see it. */
  readonly state: DiskState;
  /** Why it is not ready, as of now; empty when it is. */
  readonly reason: string;
  readonly targetConnected: boolean;
  /** Whether this run of the target was asked for its disks. */
  readonly targetListed: boolean;
  readonly onTarget:
    | {
        readonly controllerName: string;
        readonly bdevName: string;
        readonly store:
          | {
              readonly name: string;
              readonly uuid: string;
              readonly clusterBytes: bigint;
              readonly totalClusters: bigint;
              readonly freeClusters: bigint;
            }
          | undefined;
      }
    | undefined;
  readonly kernelListed: boolean;
  readonly inKernel:
    | {
        readonly address: string;
        readonly driver: string | undefined;
        readonly kernelName: string | undefined;
        readonly evidence: readonly Evidence[] | undefined;
      }
    | undefined;
  /** Its entry of STORAGE_NODE_FABRIC_DISKS. */
  readonly fabric: { readonly subnqn: string; readonly format: boolean } | undefined;
  /** Another disk shows the same serial, model and namespace. */
  readonly duplicate: boolean;
  /** Asked of the target just now; undefined: no answer. */
  readonly freeClusters: bigint | undefined;
  readonly isolation: "strict" | "trusted";
  readonly overcommit: number;
  readonly node: NodeFacts;
  readonly steps: readonly NextStep[];
  readonly inFlight: boolean;
  /** What a loop last said of this disk, perhaps long ago. */
  readonly loopError: string | undefined;
};

type Part = (facts: DiskFacts) => Cause | undefined;

/** Which apply, by the question they belong to, and all of them, the cause first. */
export function diskCauses(facts: DiskFacts) {
  const node = nodeCause(facts.node);
  const presence = presenceCause(facts);
  const evidence = evidenceCause(facts);
  const admission = admissionCause(facts);
  const store = STORE_CAUSES.map((found) => found(facts)).find((one) => one !== undefined);
  const target = targetCause(facts.node, facts.targetConnected);
  const silence = unresponsiveTargetCause(facts.node);
  const all = [node, target, silence, presence, evidence, admission, failedCause(facts), store];
  return {
    node,
    presence,
    evidence,
    admission,
    store,
    all: all.filter((one) => one !== undefined),
  };
}

export function diskLastError({ row, node, loopError }: DiskFacts): string | undefined {
  return row.lastError ?? (node.database.ok ? undefined : loopError);
}

/** The store's counts: as the target says now, else as last recorded. */
export function storeOf({ row, onTarget, freeClusters }: DiskFacts) {
  const store = onTarget?.store;
  return {
    free: freeClusters ?? store?.freeClusters ?? row.freeClusters ?? 0n,
    total: store?.totalClusters ?? row.totalClusters ?? 0n,
    clusterBytes: store?.clusterBytes ?? row.clusterBytes ?? 0n,
  };
}

function presenceCause(facts: DiskFacts): Cause | undefined {
  const { row, onTarget, inKernel, kernelListed, fabric, targetListed } = facts;
  if (onTarget !== undefined || inKernel !== undefined) return undefined;
  const { serial, address, transport, lastSeenTime } = row;
  const last = `last seen at ${address}, there since ${instant(lastSeenTime)}`;
  const waits = "waits for the disk to appear";
  if (transport === "PCIe") {
    if (!kernelListed) return undefined;
    return {
      cause: `no PCIe function shows the serial ${serial} (${last})`,
      cure:
        `put the drive back, into any slot, or let the kernel look again ` +
        `(echo 1 > /sys/bus/pci/rescan): it then comes UP by itself with its volumes; if it is lost ` +
        `for good, call Delete for its volumes`,
      waits,
    };
  }
  if (fabric === undefined) {
    return {
      cause: `no entry of STORAGE_NODE_FABRIC_DISKS names the serial ${serial} (${last})`,
      cure: `put the entry back into that file and restart the agent`,
      waits,
    };
  }
  const error = diskLastError(facts);
  if (!targetListed || error === undefined) return undefined;
  return {
    cause: `it cannot be attached at ${address} (${fabric.subnqn}): ${error}`,
    cure:
      `make the disk's target answer there, and let this node's host NQN in: it then comes ` +
      `UP by itself with its volumes`,
    waits,
  };
}

/** What an operator does about each kind of evidence. */
const CURES: Readonly<Record<EvidenceKind, string>> = {
  MOUNTED: "unmount it",
  SWAP: "swapoff it",
  HOLDER: "take it out of its device mapper or md device",
  PARTITION_TABLE: "if nobody needs what is on it, wipefs --all the disk",
  SIGNATURE: "if nobody needs what is on it, wipefs --all the disk",
  SPDK_BLOBSTORE:
    "it holds a store that no row of this node knows: see storage-node rebuild, or " +
    "blkdiscard it if nobody needs it",
  NONZERO_DATA: "if nobody needs what is on it, blkdiscard the disk",
  EXCLUSIVE_OPEN_REFUSED: "end what has it open (lsof, fuser)",
  BOOT_DISK: "leave it alone: the system runs from it",
  NOT_ALLOWED: "call AdmitDisk with its serial, or add it to STORAGE_NODE_DISK_ALLOW",
  IOMMU_GROUP_SHARED:
    "take the other functions of its IOMMU group from their drivers, or use another slot",
  NO_IOMMU: "turn the IOMMU on (firmware; kernel command line intel_iommu=on or amd_iommu=on)",
  UNREADABLE: "make it readable: dmesg says why it is not",
  DUPLICATE_SERIAL: "take one of the two disks with this serial out",
  FOREIGN_STORE: "it holds somebody's store: give it back, or blkdiscard it if nobody needs it",
};

function evidenceCause(facts: DiskFacts): Cause | undefined {
  const { row, inKernel, onTarget, duplicate } = facts;
  const waits = "waits until nothing speaks against the disk";
  if (duplicate) {
    return {
      cause: `another disk shows the serial ${row.serial}, the same model and namespace`,
      cure: CURES.DUPLICATE_SERIAL,
      waits,
    };
  }
  if (onTarget !== undefined) return undefined;
  const against = refusing(inKernel?.evidence ?? [], row.lvsUuid !== undefined);
  const [first] = against;
  if (first === undefined) return undefined;
  const told = against.map(({ kind, subject, detail }) => `${kind} ${subject} ${detail}`.trimEnd());
  return {
    cause: told.join("; "),
    cure: `${CURES[first.kind]}; it is looked at again by itself`,
    waits,
  };
}

function admissionCause({ row }: DiskFacts): Cause | undefined {
  if (row.wanted === "release") {
    return {
      cause: "it was released to its kernel driver",
      cure: `call AdmitDisk {"diskId": "${row.id}", "serial": "${row.serial}"} to take it again`,
      waits: "waits for AdmitDisk",
    };
  }
  if (row.admitted) return undefined;
  return {
    cause: "nobody has admitted it yet",
    cure:
      `call AdmitDisk {"diskId": "${row.id}", "serial": "${row.serial}"}: a blank disk is then ` +
      `formatted; or let STORAGE_NODE_DISK_POLICY=auto and STORAGE_NODE_DISK_ALLOW admit it`,
    waits: "waits for AdmitDisk",
  };
}

function failedCause({ row, state }: DiskFacts): Cause | undefined {
  if (state !== "FAILED") return undefined;
  return {
    cause: row.stateReason,
    cure:
      "look at the drive (dmesg, nvme smart-log) and at the target's log; AdmitDisk tries " +
      "again",
    waits: "only a new intent makes it try again",
  };
}

const STORE_CAUSES: readonly Part[] = [
  ({ row, state, reason, fabric, onTarget }) => {
    if (state !== "FOREIGN") return undefined;
    const empty = onTarget !== undefined && onTarget.store === undefined;
    return {
      cause: reason === "" ? row.stateReason : reason,
      cure:
        empty && fabric?.format === false
          ? `if nobody needs what is on it, say "format": true in its entry of ` +
            `STORAGE_NODE_FABRIC_DISKS and restart the agent`
          : `if the store is this node's, see storage-node rebuild; else give the disk back ` +
            `to whom it belongs`,
      waits: "what is somebody else's is left alone",
    };
  },
  ({ row, onTarget, isolation }) => {
    if (onTarget?.store === undefined || row.lvsUuid === undefined) return undefined;
    if (row.freeSpace === "ZEROED" || isolation === "trusted") return undefined;
    const asked = row.zeroRequestedTime;
    if (asked !== undefined) {
      return {
        cause: `its free clusters are being zeroed since ${instant(asked)}`,
        cure: "wait for it",
        waits: "waits for the free space to be zeroed",
      };
    }
    return {
      cause: "its free clusters may hold bytes of deleted volumes, so it takes no new ones",
      cure: `call ZeroFreeSpace {"diskId": "${row.id}"}; volumes that are there are not touched`,
      waits: "waits for ZeroFreeSpace",
    };
  },
  (facts) => {
    const { row, node, onTarget } = facts;
    const { free, total, clusterBytes } = storeOf(facts);
    if (onTarget?.store === undefined || row.lvsUuid === undefined || free > 0n) return undefined;
    const unknown =
      node.target.orphanLvols === 0
        ? ""
        : `, or remove lvols that no volume is (${node.target.orphanLvols} on the target)`;
    return {
      cause:
        `it is full: 0 of ${total} clusters free (${formatBytes(total * clusterBytes)}); ` +
        `hosts' writes to thin volumes fail where they need a new cluster`,
      cure: `make room: call Delete for volumes nobody needs${unknown}`,
      waits: "all that the agent can do is done",
    };
  },
  ({ row }) => {
    if (!row.cordoned) return undefined;
    return {
      cause: "it is cordoned: it takes no new volumes",
      // Uncordon is not implemented yet.
      cure:
        `set disk.cordoned to false in the database where id = '${row.id}', and restart the ` +
        `agent`,
      waits: "all is as wanted",
    };
  },
  ({ row, onTarget, overcommit }) => {
    if (onTarget?.store === undefined || row.lvsUuid === undefined) return undefined;
    const most = promisableBytes(row, overcommit);
    if (most === 0n || row.promisedBytes < most) return undefined;
    return {
      cause: `all of its ${formatBytes(most)} are promised, to ${row.lvolCount} volumes`,
      cure: "call Delete for volumes nobody needs, or raise STORAGE_NODE_OVERCOMMIT",
      waits: "all is as wanted",
    };
  },
];
