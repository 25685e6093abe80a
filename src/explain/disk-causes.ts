// The causes for which a disk takes no volumes, one function each; the first that applies is the
// cause.
import { claimCause, setBackCause } from "./claim-causes.ts";
import { EVIDENCE_CURES } from "./evidence-cures.ts";
import { formatBytes } from "../model/bytes.ts";
import type { Setback } from "../model/controller.ts";
import { refusing } from "../model/disk-claim.ts";
import { exposedText } from "../model/disk-conditions.ts";
import { freeSpaceDirt } from "../model/free-space.ts";
import { promisableBytes, type DiskRow, type Exposure, type DiskState } from "../model/disk.ts";
import type { Evidence } from "../model/evidence.ts";
import type { StepFailures } from "../model/failure.ts";
import type { DiskSpace } from "../model/space.ts";
import type { SeenHealth } from "../model/seen-health.ts";
import type { UnknownOutcome } from "../model/unknown-outcome.ts";
import {
  instant,
  nodeCause,
  outcomeCause,
  suspectCause,
  unresponsiveTargetCause,
  targetCause,
  type NextStep,
  type NodeFacts,
  type Cause,
} from "./explanation.ts";
import { setupCause, type SetupCheck } from "./setup.ts";
import { failingCause } from "./disk-health.ts";
import { wipeCause } from "./wipe-cause.ts";

export type DiskFacts = {
  readonly row: DiskRow;
  /** The state that the API shows. */
  readonly state: DiskState;
  /** Why the disk is not ready now; empty when it is. */
  readonly reason: string;
  readonly failures: StepFailures;
  /** A change of the disk whose outcome is not known; undefined: there is none. */
  readonly outcomeUnknown: UnknownOutcome | undefined;
  readonly targetConnected: boolean;
  /** Whether the disks on the target were listed in this incarnation. */
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
  /** The disk's entry of STORAGE_NODE_FABRIC_DISKS. */
  readonly fabric: { readonly subnqn: string; readonly format: boolean } | undefined;
  /** Why its identity is not certain; undefined: it is. */
  readonly conflict: string | undefined;
  /** Subjects of evidence that are disks with a store of this node. */
  readonly ownSubjects: ReadonlySet<string>;
  /** The claim of its controller failed for good: why, and when it is tried again; undefined: it did not. */
  readonly setback: Pick<Setback, "reason" | "nextTryTime"> | undefined;
  /** What its controller waits for, or fails at; undefined: nothing. */
  readonly waits: string | undefined;
  /** Undefined: no lvstore of it is known. */
  readonly space: DiskSpace | undefined;
  /** Read from the target for this explanation; undefined without an answer. */
  readonly freeClusters: bigint | undefined;
  readonly isolation: "strict" | "trusted";
  /** Hosts may return clusters to the store, by discards, with what stands in them. */
  readonly hostsMayFree: boolean;
  /** The agent zeroes free space without being asked. */
  readonly zeroesByItself: boolean;
  /** What the drive says of its deallocated blocks; undefined: it was not asked, or did not answer. */
  readonly deallocatedReads: string | undefined;
  /** What was checked of the machine, for a drive that is not attached. */
  readonly setup?: readonly SetupCheck[] | undefined;
  /** As this agent has last seen it; undefined: as the row says. */
  readonly health?: SeenHealth | undefined;
  readonly exposure: Exposure | undefined;
  readonly overcommit: number;
  readonly node: NodeFacts;
  readonly steps: readonly NextStep[];
  readonly inFlight: boolean;
  /** The last error of a loop for this disk, of any age. */
  readonly loopError: string | undefined;
};

type Part = (facts: DiskFacts) => Cause | undefined;

/**
 * The causes that apply, by the check they belong to, and all of them in the order of dependency.
 */
export function diskCauses(facts: DiskFacts) {
  const node = nodeCause(facts.node);
  const presence = presenceCause(facts);
  const evidence = wipeCause(facts.row, facts) ?? evidenceCause(facts);
  const admission = admissionCause(facts);
  const store = STORE_CAUSES.map((causeOf) => causeOf(facts)).find((cause) => cause !== undefined);
  const target = targetCause(facts.node, facts.targetConnected);
  const unresponsive = unresponsiveTargetCause(facts.node);
  const all = [
    node,
    target,
    unresponsive,
    suspectCause(facts.failures),
    outcomeCause(facts.row.id, facts.outcomeUnknown),
    presence,
    evidence,
    admission,
    setupCause(facts.setup),
    failedCause(facts),
    facts.onTarget === undefined && facts.state === "CLAIMING"
      ? claimCause(facts.waits)
      : undefined,
    store,
  ];
  return {
    node,
    presence,
    evidence,
    admission,
    store,
    all: all.filter((cause) => cause !== undefined),
  };
}

export function diskLastError({ row, node, loopError }: DiskFacts): string | undefined {
  return row.lastError ?? (node.database.ok ? undefined : loopError);
}

/**
 * The lvstore's counts: read for this explanation, else observed, else recorded. Sizes in bytes.
 */
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
  if (row.wanted === "release") return undefined;
  const { serial, address, transport, lastSeenTime } = row;
  const last = `last seen at ${address}, there since ${instant(lastSeenTime)}`;
  const waits = "waits for the disk to appear";
  if (transport === "PCIe") {
    if (!kernelListed) return undefined;
    return {
      cause: `no PCIe function has the serial ${serial} (${last})`,
      cure:
        `put the drive back, into any slot, or let the kernel scan again ` +
        `(echo 1 > /sys/bus/pci/rescan): it then comes UP by itself with its volumes; if it is in ` +
        `another node now, call ReleaseDisk (storage-node disk release ID --force --reason TEXT): it is then ` +
        `listed there; if it is lost for good, call Delete for its volumes`,
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
      `make the disk's target answer there, and allow this node's host NQN: it then comes ` +
      `UP by itself with its volumes`,
    waits,
  };
}

function evidenceCause(facts: DiskFacts): Cause | undefined {
  const { inKernel, onTarget, conflict } = facts;
  const waits = "waits until there is no evidence against the disk";
  if (conflict !== undefined && onTarget === undefined) {
    return {
      cause: `its identity is not certain: ${conflict}`,
      cure: EVIDENCE_CURES.DUPLICATE_SERIAL,
      waits,
    };
  }
  if (onTarget !== undefined) return undefined;
  const against = refusing(inKernel?.evidence ?? [], facts.ownSubjects);
  const [first] = against;
  if (first === undefined) return undefined;
  const found = against.map(({ kind, subject, detail }) =>
    `${kind} ${subject} ${detail}`.trimEnd(),
  );
  return {
    cause: found.join("; "),
    cure: `${EVIDENCE_CURES[first.kind]}; the agent then inspects it again by itself`,
    waits,
  };
}

/** Its events say who has asked for it, and why. */
function releaseCause({ row, state, reason, inKernel }: DiskFacts): Cause {
  const call = `AdmitDisk {"diskId": "${row.id}", "serial": "${row.serial}"}`;
  if (state !== "RELEASED") {
    const why = reason === "" ? row.stateReason : reason;
    return {
      cause: why === "" ? "it is being released" : `it is being released: ${why}`,
      cure: `wait; what goes together with it has to be released, too; ${call} keeps it`,
      waits: "waits until it can be detached and given back",
    };
  }
  const where = inKernel === undefined ? "and is not in this machine" : "to its kernel driver";
  return {
    cause: `it was released ${where}`,
    cure: `put it back if it was pulled, and call ${call} to use it again, with what is on it`,
    waits: "waits for AdmitDisk",
  };
}

function admissionCause(facts: DiskFacts): Cause | undefined {
  const { row } = facts;
  if (row.wanted === "release") return releaseCause(facts);
  if (row.admitted) return undefined;
  return {
    cause:
      row.admissionEnded === undefined
        ? "nobody has admitted it yet"
        : `its admission ended at ${row.admissionEnded}`,
    cure:
      `call AdmitDisk {"diskId": "${row.id}", "serial": "${row.serial}"} (storage-node disk admit ID): a ` +
      `blank disk is then formatted; or let STORAGE_NODE_DISK_POLICY=auto and STORAGE_NODE_DISK_ALLOW admit it`,
    waits: "waits for AdmitDisk",
  };
}

function failedCause({ row, state, setback }: DiskFacts): Cause | undefined {
  if (state !== "FAILED") return undefined;
  if (setback !== undefined) return setBackCause(setback);
  return {
    cause: row.stateReason,
    cure: "see the drive (dmesg, nvme smart-log) and the target's log; AdmitDisk tries again",
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
          ? `if nobody needs what is on it, set "format": true in its entry of ` +
            `STORAGE_NODE_FABRIC_DISKS and restart the agent`
          : `call AdoptDisk {"diskId": "${row.id}", "serial": "${row.serial}", "validateOnly": true} ` +
            `(storage-node disk adopt ID): it lists what lies in the store; with the storeUuid of its answer the store becomes this ` +
            `node's. ReleaseDisk gives the disk back to its owner`,
      waits: "the agent does not change a disk of another owner",
    };
  },
  ({ row }) => failingCause(row),
  ({ row, onTarget, isolation, hostsMayFree, zeroesByItself, deallocatedReads, exposure }) => {
    if (onTarget?.store === undefined || row.lvsUuid === undefined) return undefined;
    if (isolation === "trusted" || (row.freeSpace === "ZEROED" && !hostsMayFree)) return undefined;
    const { found, cure, waits } = freeSpaceDirt(row, { hostsMayFree, zeroesByItself });
    const claim = hostsMayFree
      ? ` (what the drive claims of deallocated blocks: ${deallocatedReads ?? "not known"})`
      : "";
    const seen = exposure === undefined || exposure.reachable === 0 ? "" : exposedText(exposure);
    const cause = [`its free clusters ${found}${claim}, so it takes no new volumes`, seen]
      .filter((part) => part !== "")
      .join("; ");
    return { cause, cure, waits };
  },
  (facts) => {
    const { row, node, onTarget } = facts;
    const { free, total, clusterBytes } = storeOf(facts);
    if (onTarget?.store === undefined || row.lvsUuid === undefined || free > 0n) return undefined;
    const orphans =
      node.target.orphanLvols === 0
        ? ""
        : `, or PurgeOrphan for lvols without a volume (ListOrphans: ${node.target.orphanLvols} of them)`;
    return {
      cause:
        `it is full: 0 of ${total} clusters free (${formatBytes(total * clusterBytes)}); ` +
        `hosts' writes to thin volumes fail where they need a new cluster`,
      cure: `make room: call Delete for volumes nobody needs${orphans}`,
      waits: "the agent cannot do anything about it",
    };
  },
  ({ row }) => {
    if (!row.cordoned) return undefined;
    return {
      cause: "it is cordoned: it takes no new volumes",
      cure: "call Uncordon with its disk_id; its events say who cordoned it and why",
      waits: "all is as wanted",
    };
  },
  ({ row, onTarget, overcommit }) => {
    if (onTarget?.store === undefined || row.lvsUuid === undefined) return undefined;
    const promisable = promisableBytes(row, overcommit);
    if (promisable === 0n || row.promisedBytes < promisable) return undefined;
    return {
      cause: `all of its ${formatBytes(promisable)} are promised, to ${row.lvolCount} volumes`,
      cure: "call Delete for volumes nobody needs, or raise STORAGE_NODE_OVERCOMMIT",
      waits: "all is as wanted",
    };
  },
];
