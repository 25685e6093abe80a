// What the handlers need of the agent: rows as committed, what the target showed, and the writer of
// intents. Handlers never talk to the target, but to ask who is connected and
// what only it can tell an explanation.
import type { Condition, NodeConditionType } from "../model/condition.ts";
import type { DiskRow, DiskReadiness } from "../model/disk.ts";
import type { DiskFacts } from "../explain/disk-causes.ts";
import type { LvolRow, VolumeView } from "../model/lvol.ts";
import type { LvolFacts } from "../explain/lvol-causes.ts";
import type { Rows } from "../store/rows.ts";
import type { Writer } from "../store/writer.ts";

export type ComponentHealth = {
  readonly name: "database" | "target" | "lease" | "kernel";
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

/** since: when it came to be as it is, where that is known. */
export type NodeCondition = Condition<NodeConditionType> & { readonly since: Date | undefined };

export type Agent = {
  readonly nodeId: string;
  readonly version: string;
  readonly maxExports: number;
  readonly overcommit: number;
  readonly rows: Rows;
  readonly writer: Pick<Writer, "mutate">;
  readonly view: (row: LvolRow) => VolumeView;
  readonly diskReadiness: (row: DiskRow) => DiskReadiness;
  /** NQNs of the hosts connected to a subsystem. Throws a Refusal when the target is away. */
  readonly connectedHosts: (nqn: string) => Promise<readonly string[]>;
  /** What an explanation is made of; asks the target for what nobody keeps, and waits little for it. */
  readonly lvolFacts: (row: LvolRow) => Promise<LvolFacts>;
  readonly diskFacts: (row: DiskRow) => Promise<DiskFacts>;
  readonly targetVersion: () => string;
  readonly ready: () => boolean;
  /** Why the agent changes nothing until an operator decides. */
  readonly hold: () => string | undefined;
  readonly components: () => readonly ComponentHealth[];
  readonly conditions: () => readonly NodeCondition[];
  readonly loops: () => readonly LoopFacts[];
};
