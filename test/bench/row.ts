// What a row of the bench is given and what it says.
import { ratioOf, oursOf, limitOf, type Pair, type Spread } from "./measure.ts";
import type { BenchNode, NodeOptions } from "./bench-node.ts";

export type Sizes = {
  /** Volumes of the rows that are about one size. */
  readonly volumes: number;
  /** What the cost of a volume is drawn against. */
  readonly scale: readonly number[];
  /** Volumes of a burst on top of each of these. */
  readonly burst: number;
  readonly warmUpVolumes: number;
  /** Made one call after another, for the comparison with that. */
  readonly sequential: number;
  readonly singles: number;
  readonly restartsPerScale: number;
  readonly idleSeconds: number;
  readonly readSeconds: number;
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
  /** What the goal is about; without it the goal is about `ours`. */
  readonly ratio?: Spread;
  readonly goal?: Goal;
};

export type RowResult = {
  readonly lines: readonly Line[];
  readonly notes: readonly string[];
  /** Everything that was measured, for the JSON. */
  readonly raw: object;
  readonly svg?: string;
  /** Why it could not be measured. */
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

/** Undefined: there is no goal. The median is what is held to it. */
export function met({ goal, ratio, ours }: Line): boolean | undefined {
  if (goal === undefined) return undefined;
  const { median } = ratio ?? ours;
  return goal.kind === "at most" ? median <= goal.value : median >= goal.value;
}
