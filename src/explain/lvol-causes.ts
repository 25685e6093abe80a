// What can stand in the way of a volume, one function each, in the order in which one depends on the
// other: the first that applies is the cause, the others may be its effects.
import { addressText, isOwnAddress } from "../model/address.ts";
import { formatBytes } from "../model/bytes.ts";
import type { DiskRow, DiskState } from "../model/disk.ts";
import {
  instant,
  nodeCause,
  unresponsiveTargetCause,
  targetCause,
  type NextStep,
  type NodeFacts,
  type Cause,
} from "./explanation.ts";
import { exportSerial } from "../model/identity.ts";
import {
  dataMissing,
  namespaceState,
  sameAddress,
  type ListenAddress,
  type VolumeView,
} from "../model/lvol.ts";

export type LvolFacts = {
  readonly view: VolumeView;
  readonly disk: DiskRow | undefined;
  readonly diskState: DiskState | undefined;
  /** Free clusters of its store hold no old bytes, or tenants trust each other. */
  readonly clean: boolean;
  /** Asked of the target just now; undefined: no answer. */
  readonly freeClusters: bigint | undefined;
  readonly allocatedClusters: bigint | undefined;
  readonly connectedHosts: readonly string[] | undefined;
  readonly node: NodeFacts;
  readonly steps: readonly NextStep[];
  /** A step was handed out and is not answered yet. */
  readonly inFlight: boolean;
  /** What a loop last said of this volume, perhaps long ago. */
  readonly loopError: string | undefined;
};

/** While the database is away, what a loop says is not in the row. */
export function lvolLastError({ view, node, loopError }: LvolFacts): string | undefined {
  return view.row.lastError ?? (node.database.ok ? undefined : loopError);
}

/** All that applies, the cause first. */
export function lvolCauses(facts: LvolFacts): readonly Cause[] {
  return CAUSES.map((found) => found(facts)).filter((one) => one !== undefined);
}

const CAUSES: readonly ((facts: LvolFacts) => Cause | undefined)[] = [
  deleted,
  ({ node }) => nodeCause(node),
  failed,
  ({ node, view }) => targetCause(node, view.targetConnected),
  ({ node }) => unresponsiveTargetCause(node),
  diskCause,
  deleting,
  notZeroedCause,
  outOfSpaceCause,
  dataMissingCause,
  foreignSubsystemCause,
  listenerCause,
  hostCause,
];

function deleted({ view: { row } }: LvolFacts): Cause | undefined {
  if (row.deleteTime === undefined) return undefined;
  return {
    cause: `it was deleted at ${instant(row.deleteTime)}`,
    cure: "call ProvisionLvol with a new id: data is never found again under an old one",
    waits: "nothing of it is left",
  };
}

function deleting({ view: { row } }: LvolFacts): Cause | undefined {
  if (row.deleteRequestedTime === undefined) return undefined;
  const held = row.lastError === undefined ? "" : `; so far: ${row.lastError}`;
  return {
    cause: `its deletion was asked for at ${instant(row.deleteRequestedTime)}${held}`,
    cure: "wait for it; hosts that are still connected must disconnect first",
    waits: "waits until what was sent to delete it has surely ended",
  };
}

function failed({ view: { row } }: LvolFacts): Cause | undefined {
  if (!row.failed || row.deleteRequestedTime !== undefined) return undefined;
  return {
    cause: `the agent has given up: ${row.lastError ?? "no error was recorded"}`,
    cure:
      `remove what is in the way, then call AllowHost or RevokeHost: a new intent is tried anew; ` +
      `or call Delete {"lvolId": "${row.id}"}`,
    waits: "only a new intent makes it try again",
  };
}

/** A disk as people know it. */
export function diskName({ serial, id }: Pick<DiskRow, "serial" | "id">): string {
  return `disk ${serial} (${id})`;
}

export function diskCause({ view, disk, diskState }: LvolFacts): Cause | undefined {
  if (view.diskReady) return undefined;
  const { diskId } = view.row;
  if (disk === undefined) {
    return {
      cause: `its disk ${diskId} has no row on this node`,
      cure: `look at ListDisks; "storage-node rebuild" makes rows of disks that hold our stores`,
      waits: `waits for disk ${diskId}`,
    };
  }
  const { address, lastSeenTime, stateReason, lastError, transport, serial } = disk;
  const observed = `last seen at ${address}, there since ${instant(lastSeenTime)}`;
  const told = diskState === "MISSING" ? [stateReason] : [stateReason, lastError];
  const why = told.filter((one) => one !== undefined && one !== "");
  const reason = why.length === 0 ? "" : `: ${[...new Set(why)].join("; ")}`;
  const back =
    transport === "PCIe"
      ? `put the drive with serial ${serial} back, into any slot`
      : `make its target answer at ${address} again`;
  const missing = diskState === "MISSING" || (transport !== "PCIe" && diskState === "CLAIMING");
  return {
    cause: `its ${diskName(disk)} is ${diskState ?? disk.state}${reason} (${observed})`,
    cure: missing
      ? `${back}: disk and volume then come UP by themselves; "storage-node explain disk ` +
        `${disk.id}" says more`
      : `run "storage-node explain disk ${disk.id}": the volume comes UP with its disk`,
    waits: `waits for disk ${serial} to come UP`,
  };
}

function notZeroedCause({ view, disk, clean }: LvolFacts): Cause | undefined {
  const { row, observed } = view;
  if (clean || disk === undefined || observed.lvol?.kind === "present") return undefined;
  if (row.lvolUuid !== undefined) return undefined;
  return {
    cause:
      `free space of its ${diskName(disk)} may hold bytes of a deleted volume, so nothing ` +
      `new is made there`,
    cure: `call ZeroFreeSpace {"diskId": "${disk.id}"}: the volume is then made by itself`,
    waits: "waits for the free space to be zeroed",
  };
}

/** Whole clusters of its store: how many there are, are free, and this volume lacks. */
export function spaceOf({ view, disk, freeClusters, allocatedClusters }: LvolFacts) {
  const { row, observed } = view;
  const cluster = disk?.clusterBytes;
  const free = freeClusters ?? disk?.freeClusters;
  if (cluster === undefined || free === undefined || cluster === 0n) return undefined;
  const size = row.promisedBytes / cluster;
  const lvol = observed.lvol?.kind === "present" ? observed.lvol : undefined;
  // Unknown on 24.01.
  const has = allocatedClusters ?? lvol?.allocatedClusters;
  return { cluster, free, total: disk?.totalClusters ?? 0n, size, has };
}

/** What SPDK says when a thick lvol does not fit (CONTRACT section 5). */
const NO_SPACE = "No space left on device";

export function outOfSpaceCause(facts: LvolFacts): Cause | undefined {
  const { view, disk, node } = facts;
  const { row, observed } = view;
  const space = spaceOf(facts);
  if (space === undefined || disk === undefined || dataMissing(view)) return undefined;
  const { free, total, size, has, cluster } = space;
  const left =
    `${diskName(disk)} has ${free} of ${total} clusters free (${formatBytes(free * cluster)} of ` +
    `${formatBytes(total * cluster)})`;
  const unknown =
    node.target.orphanLvols === 0
      ? ""
      : `, or remove lvols that no volume is (${node.target.orphanLvols} on the target)`;
  const room = `make room on it: call Delete for volumes nobody needs${unknown}`;
  if (observed.lvol?.kind === "present") {
    // A thick lvol has its clusters; so has a thin one that was written everywhere.
    if (!row.thin || free > 0n || has === undefined || has >= size) return undefined;
    return {
      cause:
        `${left}: the volume is thin and has ${has} of its ${size}, so its hosts' writes ` +
        `fail wherever they need a new one`,
      cure: `${room}; writes work again at once`,
      waits: "all that the agent can do is done",
    };
  }
  if (row.thin || row.lvolUuid !== undefined) return undefined;
  // A count of long ago says less than what the target answered since.
  const counted = facts.freeClusters !== undefined;
  const refused = !counted && lvolLastError(facts)?.includes(NO_SPACE) === true;
  if (free >= size && !refused) return undefined;
  return {
    cause: `${left}, and the thick volume needs ${size} (${formatBytes(size * cluster)})`,
    cure: `${room}; the volume is then made by itself`,
    waits: "waits for room on the disk",
  };
}

export function dataMissingCause({ view, disk }: LvolFacts): Cause | undefined {
  if (!dataMissing(view)) return undefined;
  const { id, lvolUuid } = view.row;
  const where = disk === undefined ? "" : ` on ${diskName(disk)}`;
  return {
    cause:
      `its lvol ${lvolUuid}${where} was there and is gone, and with it its data; an empty ` +
      `one is never made in its place`,
    cure:
      `bring the disk's store back as it was, and the volume comes UP by itself; or call ` +
      `Delete {"lvolId": "${id}"} and make a new volume`,
    waits: "an lvol that was there once is never made again",
  };
}

/** Something under our name that this agent did not make. */
export function foreignSubsystemCause({ view: { row, observed } }: LvolFacts): Cause | undefined {
  const { subsystem } = observed;
  if (subsystem?.kind !== "present" || row.deleteRequestedTime !== undefined) return undefined;
  const waits = "what this agent did not make is left alone";
  const { nqn } = row;
  if (subsystem.serialNumber !== exportSerial(row.id)) {
    return {
      cause:
        `the subsystem ${nqn} has the serial number ${subsystem.serialNumber}: this agent ` +
        `did not make it, and leaves it alone`,
      cure:
        `find out whose it is; once nobody needs it, send the target nvmf_delete_subsystem ` +
        `{"nqn": "${nqn}"}`,
      waits,
    };
  }
  const uuid = observed.lvol?.kind === "present" ? observed.lvol.uuid : row.lvolUuid;
  if (uuid === undefined || namespaceState(row, subsystem, uuid) !== "conflict") return undefined;
  const [other] = subsystem.namespaces;
  return {
    cause:
      `namespace 1 of ${nqn} shows ${other?.bdevName} as ${other?.uuid}, not lvol ${uuid}: ` +
      `it is left alone`,
    cure:
      `find out whose it is; once nobody needs it, send the target nvmf_subsystem_remove_ns ` +
      `{"nqn": "${nqn}", "nsid": 1}`,
    waits,
  };
}

export function silentAddresses({ view }: LvolFacts): readonly ListenAddress[] {
  const { subsystem } = view.observed;
  const listeners = subsystem?.kind === "present" ? subsystem.listeners : [];
  return view.listenAddresses.filter((want) => !listeners.some((is) => sameAddress(want, is)));
}

export function listenerCause(facts: LvolFacts): Cause | undefined {
  const { node, view } = facts;
  if (view.row.deleteRequestedTime !== undefined) return undefined;
  const silent = silentAddresses(facts);
  const foreign = silent.filter(({ traddr }) => !isOwnAddress(traddr, node.ownAddresses));
  const waits = "waits for a listener";
  if (foreign.length > 0) {
    const names = foreign.map(({ traddr }) => traddr).join(", ");
    const own = node.ownAddresses.length === 0 ? "none" : node.ownAddresses.join(", ");
    const isNot = foreign.length === 1 ? "is not an address" : "are not addresses";
    return {
      cause: `${names} ${isNot} of this machine (it has ${own}), so the target cannot listen there`,
      cure:
        `set STORAGE_NODE_EXPORT_ADDR to an address of this machine and restart the agent, or add ` +
        `it: ip address add ${foreign[0]?.traddr}/PREFIX dev DEVICE`,
      waits,
    };
  }
  const lastError = lvolLastError(facts);
  const refused = lastError?.includes("nvmf_subsystem_add_listener") === true;
  const [first] = silent;
  if (first === undefined || !refused) return undefined;
  return {
    cause: `the target refuses to listen on ${addressText(first)}: ${lastError}`,
    cure:
      `see who has that port (ss -ltnp "sport = :${first.trsvcid}") and whether the target ` +
      `has a ${first.trtype} transport (nvmf_get_transports)`,
    waits,
  };
}

export function hostCause({ view: { row } }: LvolFacts): Cause | undefined {
  if (row.deleteRequestedTime !== undefined) return undefined;
  const call =
    `call AllowHost {"lvolId": "${row.id}", "hostNqn": "NQN"} with the NQN of each host (on ` +
    `it: cat /etc/nvme/hostnqn)`;
  if (row.unconfirmed) {
    return {
      cause:
        "it was rebuilt from its disk, which does not say who may connect: its export is " +
        "left as it is",
      cure: call,
      waits: "waits for AllowHost or RevokeHost",
    };
  }
  if (row.allowAnyHost || row.hosts.length > 0) return undefined;
  return { cause: "no host may connect to it", cure: call, waits: "all is as wanted" };
}
