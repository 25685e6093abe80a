// Formats the status of a node as one screen: components, capacity, disks, loops, failing objects.
import { diskNotes } from "./disk-notes.ts";
import { table } from "./client/text.ts";
import type { Disk } from "../gen/storagenode/v1/disk.ts";
import type { LoopStatus } from "../gen/storagenode/v1/node.ts";
import type { GetHealthResponse, GetNodeResponse } from "../gen/storagenode/v1/storage_node.ts";
import { formatBytes } from "../model/bytes.ts";

export type NodeStatus = {
  readonly node: GetNodeResponse;
  readonly health: GetHealthResponse;
  readonly disks: readonly Disk[];
};

type View = {
  readonly address: string;
  /** Lines are cut to this width; undefined: they are not cut. */
  readonly columns: number | undefined;
  readonly now: Date;
};

/** Limits so that the status fits on a screen; Explain and the list calls return everything. */
const MAX_ERRORS = 5;
const MAX_DISKS = 24;

export function statusScreen({ node, health, disks }: NodeStatus, view: View): string {
  const version = node.targetVersion === "" ? "unknown" : node.targetVersion;
  const ready = health.ready ? "READY" : "NOT READY";
  const lines = [
    `node ${node.nodeId} at ${view.address}: ${ready}   agent ${node.version}, target ${version}`,
    "",
    ...table(parts(node, health, view.now)),
    "",
    ...table([
      ["capacity", capacityText(node, health, disks)],
      ["volumes", volumesText(node)],
    ]),
    "",
    ...table([
      ["disk", "state", "size", "free", "promised", "where", ""],
      ...diskRows(disks, node),
    ]),
    ...more(disks.length - MAX_DISKS, "disks; see ListDisks"),
    "",
    ...table([
      ["loop", "passes", "last pass", "took", "last error"],
      ...node.loops.map((loop) => loopRow(loop, view.now)),
    ]),
    ...errorLines(node, view.now),
  ];
  return lines.map((line) => cut(line, view.columns)).join("\n");
}

function parts(node: GetNodeResponse, health: GetHealthResponse, now: Date): string[][] {
  const shown = health.components.filter(({ name }) => name !== "hold");
  const rows = shown.flatMap((component) => {
    const { name, ok, reason, since, cure } = component;
    const age = since === undefined ? "" : `for ${ago(since, now)}`;
    const row = [name, ok ? "ok" : "NOT OK", age, reason];
    return cure === "" ? [row] : [row, ["", "", "", `-> ${cure}`]];
  });
  const lock = node.conditions.find(({ type }) => type === "LocalLockHeld");
  const hasLock = lock?.status === "CONDITION_STATUS_TRUE";
  rows.push(["lock", hasLock ? "ok" : "NOT OK", "", hasLock ? "" : (lock?.message ?? "")]);
  const { hold } = node;
  rows.push(["hold", hold?.held === true ? "ON HOLD" : "no", "", hold?.message ?? ""]);
  const ends = health.components.find(({ name }) => name === "hold")?.cure ?? "";
  if (ends !== "") rows.push(["", "", "", `-> ${ends}`]);
  const { unconfirmedHosts } = health;
  if (unconfirmedHosts > 0) {
    const cure = `${unconfirmedHosts} hosts may not connect; see "storage-node confirm-hosts --help"`;
    rows.push(["hosts", "UNCONFIRMED", "", cure]);
  }
  if (node.cordoned) rows.push(["cordon", "CORDONED", "", "the node takes no new volumes"]);
  return rows;
}

const UNKNOWN = "unknown: the database was not read since the agent started";

function capacityText(
  { capacity }: GetNodeResponse,
  { components }: GetHealthResponse,
  disks: readonly Disk[],
): string {
  if (capacity === undefined) return UNKNOWN;
  const { promisedBytes, totalBytes, freeBytes, orphanBytes, exports, maxExports } = capacity;
  const promised = formatBytes(promisedBytes);
  const inUse = `${exports} of ${maxExports} exports`;
  if (components.some(({ name, ok }) => name === "target" && !ok)) {
    return `${promised} promised, size and free space unknown without the target; ${inUse}`;
  }
  const stores = disks.filter(({ status }) => status?.lvstore !== undefined);
  const away = stores.filter(({ status }) => status?.state !== "DISK_STATE_UP").length;
  if (away > 0 && away === stores.length) {
    return `${promised} promised, size and free space unknown while no disk is UP; ${inUse}`;
  }
  const without = away === 0 ? "" : `, without ${away} disks that are not UP`;
  const orphans = orphanBytes > 0n ? `, ${formatBytes(orphanBytes)} held by orphans` : "";
  return `${promised} of ${formatBytes(totalBytes)} promised, ${formatBytes(freeBytes)} free${orphans}${without}; ${inUse}`;
}

function volumesText({ lvolsByState, capacity }: GetNodeResponse): string {
  const counts = Object.entries(lvolsByState).toSorted(([a], [b]) => (a < b ? -1 : 1));
  if (counts.length === 0) return capacity === undefined ? UNKNOWN : "none";
  return counts.map(([state, count]) => `${count} ${state.replace("LVOL_STATE_", "")}`).join(", ");
}

/** Without the database only what the local copy has is known of disks. */
function diskRows(disks: readonly Disk[], { capacity }: GetNodeResponse): string[][] {
  return disks.slice(0, MAX_DISKS).map((disk) => {
    const { meta, status } = disk;
    const store = status?.lvstore;
    const state = status?.state.replace("DISK_STATE_", "") ?? "?";
    const reason = status?.conditions.find(({ type }) => type === "Attached")?.message ?? "";
    const message = diskNotes(disk, { reason, copied: capacity === undefined });
    return [
      status?.serial ?? meta?.id ?? "",
      state,
      formatBytes(status?.sizeBytes ?? 0n),
      store === undefined ? "-" : formatBytes(store.freeBytes),
      store === undefined ? "-" : capacity === undefined ? "?" : formatBytes(store.promisedBytes),
      `${status?.transport} ${status?.address}`,
      message,
    ];
  });
}

function loopRow(loop: LoopStatus, now: Date): string[] {
  const { name, passes, lastReason, lastPassTime, lastDuration, lastError } = loop;
  const last =
    lastPassTime === undefined ? "never" : `${ago(lastPassTime, now)} ago (${lastReason})`;
  const tookMs = Number(lastDuration?.seconds ?? 0n) * 1_000 + (lastDuration?.nanos ?? 0) / 1e6;
  return [name, passes.toString(), last, `${tookMs.toFixed(1)} ms`, lastError];
}

function errorLines({ lastErrors }: GetNodeResponse, now: Date): string[] {
  if (lastErrors.length === 0) return [];
  const rows = lastErrors.slice(0, MAX_ERRORS).map((error) => {
    const { objectKind, objectId, attempt, nextTryTime, lastError } = error;
    const kind = objectKind === "lvol" ? "volume" : objectKind;
    const due =
      nextTryTime === undefined || nextTryTime <= now ? "" : `next in ${ago(now, nextTryTime)}`;
    return [kind, objectId, `attempt ${attempt}`, due, lastError];
  });
  return [
    "",
    `failing (storage-node explain volume|snapshot|disk ID says what to do)`,
    ...table(rows),
    ...more(lastErrors.length - MAX_ERRORS, "or more"),
  ];
}

function more(count: number, what: string): string[] {
  return count > 0 ? [`and ${count} ${what}`] : [];
}

const UNITS = [
  ["d", 86_400],
  ["h", 3_600],
  ["min", 60],
] as const;

function ago(from: Date, to: Date): string {
  const seconds = Math.max(0, Math.round((to.getTime() - from.getTime()) / 1_000));
  const [unit, size] = UNITS.find(([, least]) => seconds >= least) ?? ["s", 1];
  return `${Math.floor(seconds / size)} ${unit}`;
}

function cut(line: string, columns: number | undefined): string {
  if (columns === undefined || line.length <= columns) return line;
  return `${line.slice(0, columns - 1)}…`;
}
