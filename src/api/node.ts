// GetNode and GetHealth.
import type { ObjectError } from "../gen/storagenode/v1/node.ts";
import type { DiskRow } from "../model/disk.ts";
import { lvolState } from "../model/lvol-state.ts";
import { unconfirmedHostCount, type LvolRow } from "../model/lvol.ts";
import type { SnapshotRow } from "../model/snapshot.ts";
import type { Agent } from "./agent.ts";
import { nodeCapacity } from "./capacity.ts";
import type { StorageNodeHandlers } from "./call.ts";
import { healthMessage } from "./health-messages.ts";
import { conditionMessage } from "./messages.ts";

export function nodeHandlers(agent: Agent): Pick<StorageNodeHandlers, "getNode" | "getHealth"> {
  return {
    async getNode() {
      const rowsAreRead = agent.rows.node !== undefined && !agent.rows.copied;
      return {
        nodeId: agent.nodeId,
        version: agent.version,
        targetVersion: agent.targetVersion(),
        cordoned: agent.rows.node?.cordoned ?? false,
        hold: holdMessage(agent.hold()),
        // Nothing is known of rows that were not read, and the local copy has no space.
        capacity: rowsAreRead ? capacityOf(agent) : undefined,
        loops: agent.loops().map((loop) => ({
          name: loop.name,
          passes: BigInt(loop.passes),
          lastReason: loop.lastReason ?? "",
          lastPassTime: loop.lastPassTime,
          lastDuration: milliseconds(loop.lastDurationMs),
          lastError: loop.lastError ?? "",
        })),
        capabilities: {
          resize: true,
          snapshots: true,
          qos: true,
          iostat: true,
          hostKeys: false,
        },
        conditions: agent
          .conditions()
          .map(({ since, ...condition }) => conditionMessage(condition, since)),
        lvolsByState: lvolsByState(agent),
        lastErrors: lastErrors(agent),
      };
    },

    async getHealth() {
      return {
        ready: agent.ready(),
        components: agent.components().map((component) => ({ ...component })),
        disks: [...agent.rows.disks()]
          .filter(isOurs)
          .map((row) => healthMessage(row, agent.diskReadiness(row))),
        unconfirmedHosts: unconfirmedHostCount(agent.rows.lvols()),
      };
    },
  };
}

/** Not given back: whose health the node answers for. */
function isOurs({ wanted, state }: DiskRow): boolean {
  return wanted !== "release" || state !== "RELEASED";
}

function capacityOf(agent: Agent) {
  const { exports, ...capacity } = nodeCapacity(agent);
  return { ...capacity, maxExports: BigInt(agent.maxExports), exports: BigInt(exports) };
}

function lvolsByState(agent: Agent): Record<string, bigint> {
  const counts: Record<string, bigint> = {};
  for (const row of agent.rows.lvols()) {
    if (row.deleteTime !== undefined) continue;
    const state = `LVOL_STATE_${lvolState(agent.view(row))}`;
    counts[state] = (counts[state] ?? 0n) + 1n;
  }
  return counts;
}

/** Limit of errors in GetNode; ListLvols and ListDisks have all. */
const MAX_ERRORS = 10;

function lastErrors(agent: Agent): ObjectError[] {
  const failing = (
    kind: "lvol" | "snapshot" | "disk",
    rows: Iterable<LvolRow | SnapshotRow | DiskRow>,
  ) =>
    [...rows].flatMap(({ id, lastError, attempt, nextTryTime }) =>
      lastError === undefined
        ? []
        : [{ objectKind: kind, objectId: id, lastError, attempt, nextTryTime }],
    );
  const all = [
    ...failing("disk", agent.rows.disks()),
    ...failing("lvol", agent.rows.lvols()),
    ...failing("snapshot", agent.rows.snapshots.all()),
  ];
  return all.toSorted((a, b) => b.attempt - a.attempt).slice(0, MAX_ERRORS);
}

function holdMessage(hold: string | undefined) {
  if (hold === undefined) return { held: false, reason: "", message: "" };
  return { held: true, reason: "DATABASE_BEHIND", message: hold };
}

function milliseconds(value: number): { seconds: bigint; nanos: number } {
  const nanos = Math.round((value % 1_000) * 1e6);
  return { seconds: BigInt(Math.floor(value / 1_000)), nanos: Math.min(nanos, 999_999_999) };
}
