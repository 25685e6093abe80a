// The causes for which a volume is not as wanted, one function each, in the order in which one
// depends on the other: the first that applies is the cause, the others may be its effects.
import { addressText, isOwnAddress } from "../model/address.ts";
import { formatBytes } from "../model/bytes.ts";
import { diskName } from "../model/free-space.ts";
import {
  instant,
  nodeCause,
  outcomeCause,
  suspectCause,
  unresponsiveTargetCause,
  targetCause,
  type Cause,
} from "./explanation.ts";
import { diskCause, type LvolFacts } from "./lvol-facts.ts";
import { dataMissing, maybeLost, NO_SPACE, OLD_BYTES } from "../model/lvol-state.ts";
import { sameAddress, type ListenAddress } from "../model/lvol.ts";
import { isOfDisk } from "../model/wait.ts";
import { foreignSubsystemCause, hostCause } from "./export-causes.ts";
import { limitsCause, noRoomToGrow, oldTargetCause } from "./change-causes.ts";

/** The row's last error. Without the database, errors cannot be recorded: then also the loop's. */
export function lvolLastError({ view, node, loopError }: LvolFacts): string | undefined {
  return view.row.lastError ?? (node.database.ok ? undefined : loopError);
}

/** All causes that apply, in the order of dependency. */
export function lvolCauses(facts: LvolFacts): readonly Cause[] {
  return CAUSES.map((causeOf) => causeOf(facts)).filter((cause) => cause !== undefined);
}

const CAUSES: readonly ((facts: LvolFacts) => Cause | undefined)[] = [
  deleted,
  ({ node }) => nodeCause(node),
  failed,
  ({ node, view }) => targetCause(node, view.targetConnected),
  ({ node }) => unresponsiveTargetCause(node),
  diskCause,
  // Before what was suspected of an earlier try: it keeps the step from being tried at all.
  ({ view: { wait } }) => (wait !== undefined && isOfDisk(wait) ? wait : undefined),
  ({ view }) => suspectCause(view.failures),
  ({ view }) => outcomeCause(view.row.id, view.outcomeUnknown),
  ({ view }) => view.wait,
  deleting,
  maybeLostCause,
  outOfSpaceCause,
  oldTargetCause,
  dataMissingCause,
  cloningCause,
  foreignSubsystemCause,
  listenerCause,
  hostCause,
  limitsCause,
  exposedCause,
];

function exposedCause({ view, disk }: LvolFacts): Cause | undefined {
  if (!view.exposed || disk === undefined) return undefined;
  return {
    cause: `its export was not held back any longer: ${OLD_BYTES}`,
    cure:
      `see "storage-node explain disk ${disk.id}" for how far zeroing is; ` +
      `STORAGE_NODE_ZEROING_HOLD says how long exports are held back after a restart`,
    waits: "all is as wanted",
  };
}

function deleted({ view: { row } }: LvolFacts): Cause | undefined {
  if (row.deleteTime === undefined) return undefined;
  return {
    cause: `it was deleted at ${instant(row.deleteTime)}`,
    cure: "call ProvisionLvol with a new id: the data of a deleted volume cannot be restored",
    waits: "its deletion is complete",
  };
}

function deleting({ view: { row } }: LvolFacts): Cause | undefined {
  if (row.deleteRequestedTime === undefined) return undefined;
  const held = row.lastError === undefined ? "" : `; so far: ${row.lastError}`;
  return {
    cause: `its deletion was asked for at ${instant(row.deleteRequestedTime)}${held}`,
    cure: "wait for it; hosts that are still connected must disconnect first",
    waits: "waits until a delete that was sent earlier can no longer be running",
  };
}

function failed({ view: { row } }: LvolFacts): Cause | undefined {
  if (!row.failed || row.deleteRequestedTime !== undefined) return undefined;
  return {
    cause: `the agent has given up: ${row.lastError ?? "no error was recorded"}`,
    cure:
      `remove the reason, then call AllowHost or RevokeHost: the agent tries a new intent; ` +
      `or call Delete {"lvolId": "${row.id}"}`,
    waits: "only a new intent makes it try again",
  };
}

function cloningCause({ view, disk }: LvolFacts): Cause | undefined {
  const { row } = view;
  if (!row.cloning || row.deleteRequestedTime !== undefined) return undefined;
  const snapshot = `snapshot ${row.request.sourceSnapshotId}`;
  return {
    cause: `it does not have the data of ${snapshot} yet, so no host may see it`,
    cure:
      `wait: the agent makes it a clone step by step; "storage-node explain snapshot ` +
      `${row.request.sourceSnapshotId}" says more of the snapshot` +
      (disk === undefined ? "" : `, "storage-node explain disk ${disk.id}" of the disk`),
    waits: `waits for ${snapshot}`,
  };
}

function maybeLostCause({ view, disk }: LvolFacts): Cause | undefined {
  if (!maybeLost(view) || view.row.deleteRequestedTime !== undefined) return undefined;
  const where = disk === undefined ? "" : ` on ${diskName(disk)}`;
  return {
    cause:
      `its row comes from a database that was older than what the node remembers, and there is no ` +
      `lvol of it${where}: one may have been made and lost since, so no empty one is created`,
    cure:
      `restore the lvstore of the disk as it was, and the volume comes UP by itself; or call ` +
      `Delete {"lvolId": "${view.row.id}"} and create a new volume`,
    waits: "an lvol that may have existed is never created again",
  };
}

/**
 * Space of the volume's lvstore, in whole clusters: in all, free, the size of the volume, and how
 * many clusters the volume has allocated. `cluster` is the cluster size in bytes.
 */
export function spaceOf({ view, disk, freeClusters, allocatedClusters }: LvolFacts) {
  const { row, observed } = view;
  const cluster = disk?.clusterBytes;
  const free = freeClusters ?? disk?.freeClusters;
  if (cluster === undefined || free === undefined || cluster === 0n) return undefined;
  const size = row.promisedBytes / cluster;
  const lvol = observed.lvol?.kind === "present" ? observed.lvol : undefined;
  // SPDK 24.01 does not report it.
  const has = allocatedClusters ?? lvol?.allocatedClusters;
  return { cluster, free, total: disk?.totalClusters ?? 0n, size, has };
}

export function outOfSpaceCause(facts: LvolFacts): Cause | undefined {
  const { view, disk, node } = facts;
  const { row, observed } = view;
  const space = spaceOf(facts);
  if (space === undefined || disk === undefined || dataMissing(view)) return undefined;
  const { free, total, size, has, cluster } = space;
  const shortage =
    `${diskName(disk)} has ${free} of ${total} clusters free (${formatBytes(free * cluster)} of ` +
    `${formatBytes(total * cluster)})`;
  const orphans =
    node.target.orphanLvols === 0
      ? ""
      : `, or PurgeOrphan for lvols without a volume (ListOrphans: ${node.target.orphanLvols} of them)`;
  const room = `make room on it: call Delete for volumes nobody needs${orphans}`;
  const noRoom = noRoomToGrow(facts, { shortage, room, cluster, free });
  if (noRoom !== undefined) return noRoom;
  if (observed.lvol?.kind === "present") {
    // A thick lvol has all of its clusters, and so has a thin one that was written everywhere.
    if (!row.thin || free > 0n || has === undefined || has >= size) return undefined;
    if (disk.pendingOp?.op === "zero-free-space") return heldForZeroing(shortage);
    return {
      cause:
        `${shortage}: the volume is thin and has ${has} of its ${size}, so its hosts' writes ` +
        `fail wherever they need a new one`,
      cure: `${room}; writes work again at once`,
      waits: "the agent cannot do anything about it",
    };
  }
  if (row.thin || row.lvolUuid !== undefined) return undefined;
  // Prefer the target's last "no space" answer over a recorded count of free clusters, which may be
  // older.
  const countIsFresh = facts.freeClusters !== undefined;
  const refused = !countIsFresh && lvolLastError(facts)?.includes(NO_SPACE) === true;
  if (free >= size && !refused) return undefined;
  return {
    cause: `${shortage}, and the thick volume needs ${size} (${formatBytes(size * cluster)})`,
    cure: `${room}; the volume is then created by itself`,
    waits: "waits for room on the disk",
  };
}

/** Nothing is missing: what was free comes back piece by piece. */
function heldForZeroing(shortage: string): Cause {
  return {
    cause:
      `${shortage}, as its free clusters are held while they are zeroed: its hosts' writes fail ` +
      `wherever they need a new one`,
    cure: "wait: zeroed clusters are free again within moments; no volume has to be deleted",
    waits: "waits for clusters to be zeroed",
  };
}

export function dataMissingCause({ view, disk }: LvolFacts): Cause | undefined {
  if (!dataMissing(view)) return undefined;
  const { id, lvolUuid } = view.row;
  const where = disk === undefined ? "" : ` on ${diskName(disk)}`;
  return {
    cause:
      `its lvol ${lvolUuid}${where} was there and is gone, and its data with it; an empty ` +
      `lvol is never created in its place`,
    cure:
      `restore the lvstore of the disk as it was, and the volume comes UP by itself; or call ` +
      `Delete {"lvolId": "${id}"} and create a new volume`,
    waits: "an lvol that existed once is never created again",
  };
}

export function silentAddresses({ view }: LvolFacts): readonly ListenAddress[] {
  const { subsystem } = view.observed;
  const listeners = subsystem?.kind === "present" ? subsystem.listeners : [];
  return view.listenAddresses.filter(
    (wanted) => !listeners.some((listener) => sameAddress(wanted, listener)),
  );
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
      `see which process has that port (ss -ltnp "sport = :${first.trsvcid}") and whether the ` +
      `target has a ${first.trtype} transport (nvmf_get_transports)`,
    waits,
  };
}
