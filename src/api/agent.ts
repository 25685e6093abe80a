// The interface between the API handlers and the agent: committed rows, observed state, and the
// writer of intents. Handlers never change the target, but for the purge of an orphan, which has no
// row; they read from it only the connected hosts, orphans, and what an explanation needs.
import type { Condition, NodeConditionType } from "../model/condition.ts";
import type { DiscardGuard } from "../model/discards.ts";
import type { DiskRow, DiskReadiness } from "../model/disk.ts";
import type { DiskFacts } from "../explain/disk-causes.ts";
import type { VolumeView } from "../model/lvol-state.ts";
import type { LvolRow } from "../model/lvol.ts";
import type { SnapshotRow, SnapshotView } from "../model/snapshot.ts";
import type { Orphan, Purge } from "../model/orphan.ts";
import type { LvolFacts } from "../explain/lvol-causes.ts";
import type { SnapshotFacts } from "../explain/snapshot.ts";
import type { Rows } from "../store/rows.ts";
import type { Writer } from "../store/writer.ts";

export type ComponentHealth = {
  readonly name: "database" | "target" | "lease" | "kernel" | "copy" | "suspects" | "outcomes";
  readonly ok: boolean;
  readonly reason: string;
  readonly since: Date;
};

export type LoopFacts = {
  readonly name: string;
  readonly passes: number;
  readonly lastReason: "start" | "wake" | "period" | undefined;
  readonly lastPassTime: Date | undefined;
  readonly lastDurationMs: number;
  readonly lastError: string | undefined;
};

/** since: time of the last transition, if known. */
export type NodeCondition = Condition<NodeConditionType> & { readonly since: Date | undefined };

export type OrphansOfNode = {
  /** Throws a Refusal if the target does not answer. */
  readonly list: () => Promise<readonly Orphan[]>;
  /** Those known, without a read; empty while the target does not answer. */
  readonly known: () => readonly Orphan[];
  /** What has a volume's id as its name, read from the target. Throws a Refusal if that is not known. */
  readonly ofVolume: (id: string) => Promise<readonly Orphan[]>;
  /** The only change that a handler makes: an orphan has no row. */
  readonly purge: (purge: Purge, signal: AbortSignal) => Promise<boolean>;
};

export type Agent = {
  readonly nodeId: string;
  readonly version: string;
  readonly maxExports: number;
  readonly overcommit: number;
  readonly rows: Rows;
  readonly writer: Pick<Writer, "mutate">;
  readonly view: (row: LvolRow) => VolumeView;
  readonly snapshotView: (row: SnapshotRow) => SnapshotView;
  readonly orphans: OrphansOfNode;
  readonly diskReadiness: (row: DiskRow) => DiskReadiness;
  /** What keeps hosts from freeing clusters, of the last target; undefined: none was connected yet. */
  readonly discardGuard: () => DiscardGuard | undefined;
  /** NQNs of the hosts connected to a subsystem. Throws a Refusal if the target does not answer. */
  readonly connectedHosts: (nqn: string) => Promise<readonly string[]>;
  /**
   * Facts for an explanation. Reads from the target what is not kept in memory, with a short
   * timeout.
   */
  readonly lvolFacts: (row: LvolRow) => Promise<LvolFacts>;
  readonly snapshotFacts: (row: SnapshotRow) => SnapshotFacts;
  readonly diskFacts: (row: DiskRow) => Promise<DiskFacts>;
  /** What was observed of the volume's export no longer counts: it is read again. */
  readonly readExportAgain: (id: string) => void;
  /** Ends what is unknown of a volume or a disk, as an operator says so; the methods of the requests. */
  readonly resolveOutcome: (id: string) => readonly string[];
  readonly targetVersion: () => string;
  readonly ready: () => boolean;
  /** Reason of the operator stop; undefined if the node is not on hold. */
  readonly hold: () => string | undefined;
  readonly components: () => readonly ComponentHealth[];
  readonly conditions: () => readonly NodeCondition[];
  readonly loops: () => readonly LoopFacts[];
};
