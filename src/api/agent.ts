// The interface between the API handlers and the agent: committed rows, observed state, and the
// writer of intents. Handlers never change the target, but for the purge of an orphan, which has no
// row; they read from it only the connected hosts, orphans, and what an explanation needs.
import type { Condition, NodeConditionType } from "../model/condition.ts";
import type { DiscardGuard } from "../model/discards.ts";
import type { DiskRow, DiskReadiness, LoadedStore } from "../model/disk.ts";
import type { FoundLvol } from "../model/found-lvol.ts";
import type { Intent } from "../model/intent.ts";
import type { ComponentName } from "../explain/component-cures.ts";
import type { DiskFacts } from "../explain/disk-causes.ts";
import type { Evidence } from "../model/evidence.ts";
import type { VolumeView } from "../model/lvol-state.ts";
import type { CreationRequest, LvolRow } from "../model/lvol.ts";
import type { Adoption, Orphan, Purge } from "../model/orphan.ts";
import type { PendingOp } from "../model/pending-op.ts";
import type { SnapshotRow, SnapshotView } from "../model/snapshot.ts";
import type { WipeLook } from "../model/wipe-admission.ts";
import type { LvolFacts } from "../explain/lvol-facts.ts";
import type { SnapshotFacts } from "../explain/snapshot.ts";
import type { Located } from "../model/locate.ts";
import type { IoReading, IostatReader } from "../model/iostat.ts";
import type { EventLog } from "../store/event-log.ts";
import type { Rows } from "../store/rows.ts";
import type { Writer } from "../store/writer.ts";

export type ComponentHealth = {
  readonly name: ComponentName;
  readonly ok: boolean;
  /** Why it is not ok; of one that is, what it is busy with. */
  readonly reason: string;
  readonly since: Date;
  /** The node is ready only while this component is ok. */
  readonly needed: boolean;
  /** What an operator does about it; empty while it is ok. */
  readonly cure: string;
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
  /** The lvols in the store that is loaded from a disk, read from the target. Throws a Refusal if that is not known. */
  readonly ofDisk: (on: {
    readonly diskId: string;
    readonly storeUuid: string;
  }) => Promise<readonly Orphan[]>;
  /** Reads the lvol, then commits the intent. Throws a Refusal. */
  readonly adopt: (adoption: Adoption) => Promise<LvolRow>;
  /** The only change that a handler makes: an orphan has no row. */
  readonly purge: (purge: Purge, signal: AbortSignal) => Promise<boolean>;
};

export type StoreContents = { readonly store: LoadedStore; readonly lvols: readonly FoundLvol[] };

/** AdoptDisk: the store that its caller has seen the contents of. */
export type DiskAdoption = Intent & { readonly serial: string; readonly storeUuid: string };

export type IostatOfNode = {
  /** Number of readers now. */
  readonly readers: number;
  /** Frames come until the returned function is called. */
  readonly subscribe: (reader: IostatReader) => () => void;
  /** The last reading in this incarnation of the target. */
  readonly latest: (kind: "lvol" | "disk", id: string) => IoReading | undefined;
  /** A reader was too slow for a frame. */
  readonly countDropped: () => void;
};

export type EventsOfNode = Pick<EventLog, "list" | "add"> & {
  /** Whether an error of `list` says that the database cannot be reached. */
  readonly isDown: (error: unknown) => boolean;
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
  readonly iostat: IostatOfNode;
  readonly events: EventsOfNode;
  readonly diskReadiness: (row: DiskRow) => DiskReadiness;
  /** Who has the vfio group of a function open, looked for now; undefined: nobody but the target. */
  readonly groupUser: (address: string) => Promise<string | undefined>;
  /** What lies in the store that is loaded from a disk; undefined: none is. Throws a Refusal. */
  readonly storeContents: (diskId: string) => Promise<StoreContents | undefined>;
  /** Makes the store that is loaded from a disk one of this node. Throws a Refusal. */
  readonly adoptDisk: (asked: DiskAdoption) => Promise<DiskRow>;
  /** The evidence against a disk, looked for now; undefined: nobody can look at it where it is. */
  readonly lookAtDisk: (id: string) => Promise<readonly Evidence[] | undefined>;
  /** The same, with what else is at its place, for a wipe. */
  readonly lookToWipe: (id: string) => Promise<WipeLook | undefined>;
  /** Switches the LED of a disk's slot. Throws a Refusal. */
  readonly locateDisk: (row: DiskRow, on: boolean) => Promise<Located>;
  /** Free clusters by disk; read from the target where too few seem to be free for what is asked. */
  readonly freeFor: (
    asked: Pick<CreationRequest, "sizeBytes" | "thin">,
  ) => Promise<ReadonlyMap<string, bigint>>;
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
  /** Throws a Refusal if the target would die of it that the volume is grown. */
  readonly refuseFatalGrowth: (row: LvolRow) => Promise<void>;
  /** Throws a Refusal if the target is too old to make the volume with this id a clone. */
  readonly refuseCloneOnOldTarget: (id: string) => Promise<void>;
  /** Announces a resize that can be sent at once; undefined: its loop announces it when it can be. */
  readonly pendingResize: (row: LvolRow) => PendingOp | undefined;
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
