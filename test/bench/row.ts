// Types of a row of the bench: its input and its result.
import { ratioOf, oursOf, limitOf, type Pair, type Spread } from "./measure.ts";
import type { BenchNode, NodeOptions } from "./bench-node.ts";

export type Sizes = {
  /** Number of volumes on the node for rows that measure one size. */
  readonly volumes: number;
  /** Numbers of volumes on the node for the scale row. */
  readonly scale: readonly number[];
  /** Number of volumes in a burst at each of these sizes. */
  readonly burst: number;
  readonly warmUpVolumes: number;
  /** Number of volumes created one call after another, for comparison. */
  readonly sequential: number;
  readonly singles: number;
  readonly restartsPerScale: number;
  readonly idleSeconds: number;
  readonly watchers: number;
  readonly readSeconds: number;
  /** Volumes that are made and deleted. */
  readonly cycles: number;
};

export type Bench = {
  readonly sizes: Sizes;
  readonly pairs: number;
  readonly warmUps: number;
  readonly startNode: (options?: NodeOptions) => Promise<BenchNode>;
  readonly canKill: boolean;
  readonly say: (sentence: string) => void;
};

export type Goal = { readonly kind: "at most" | "at least"; readonly value: number };

/** One line of the table. */
export type Line = {
  readonly what: string;
  readonly unit: string;
  readonly ours: Spread;
  readonly limit?: Spread;
  /** The value that the goal applies to; undefined: the goal applies to `ours`. */
  readonly ratio?: Spread;
  readonly goal?: Goal;
};

export type RowResult = {
  readonly lines: readonly Line[];
  readonly notes: readonly string[];
  /** All measured values, for the JSON report. */
  readonly raw: object;
  readonly svg?: string;
  /** Why the row could not be measured; undefined: it was. */
  readonly failed?: string;
};

export type Row = {
  readonly name: string;
  readonly run: (bench: Bench) => Promise<RowResult>;
};

export function lineOf(
  pairs: readonly Pair[],
  { what, unit, goal }: Pick<Line, "what" | "unit" | "goal">,
): Line {
  const line = { what, unit, ours: oursOf(pairs), limit: limitOf(pairs), ratio: ratioOf(pairs) };
  return goal === undefined ? line : { ...line, goal };
}

/** Whether the median meets the goal; undefined: there is no goal. */
export function met({ goal, ratio, ours }: Line): boolean | undefined {
  if (goal === undefined) return undefined;
  const { median } = ratio ?? ours;
  return goal.kind === "at most" ? median <= goal.value : median >= goal.value;
}
