// Measures two ways of doing the same alternately: A B, B A, A B, … Changes in machine load affect
// both, so their ratio is meaningful even where the times alone are not.

export type Spread = { readonly min: number; readonly median: number; readonly max: number };

export type Pair = { readonly ours: number; readonly limit: number };

export type Side = () => Promise<number>;

export type Turns = {
  readonly pairs: number;
  /** Number of pairs that are not counted, before the first that is. */
  readonly warmUps: number;
  readonly ours: Side;
  readonly limit: Side;
  /** Called after each pair, not measured. */
  readonly between?: () => Promise<void>;
};

export async function inTurns(turns: Turns): Promise<readonly Pair[]> {
  const { pairs, warmUps, ours, limit, between } = turns;
  const taken: Pair[] = [];
  for (let turn = -warmUps; turn < pairs; turn += 1) {
    const pair = turn % 2 === 0 ? await oursFirst(ours, limit) : await limitFirst(ours, limit);
    if (turn >= 0) taken.push(pair);
    await between?.();
  }
  return taken;
}

async function oursFirst(ours: Side, limit: Side): Promise<Pair> {
  const first = await ours();
  return { ours: first, limit: await limit() };
}

async function limitFirst(ours: Side, limit: Side): Promise<Pair> {
  const first = await limit();
  return { ours: await ours(), limit: first };
}

export function spread(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (index: number) => sorted[index] ?? Number.NaN;
  const middle = (sorted.length - 1) / 2;
  const median = (at(Math.floor(middle)) + at(Math.ceil(middle))) / 2;
  return { min: at(0), median, max: at(sorted.length - 1) };
}

export const oursOf = (pairs: readonly Pair[]): Spread => spread(pairs.map(({ ours }) => ours));
export const limitOf = (pairs: readonly Pair[]): Spread => spread(pairs.map(({ limit }) => limit));

/** Ratio of ours to the limit, per pair. */
export function ratioOf(pairs: readonly Pair[]): Spread {
  return spread(pairs.map(({ ours, limit }) => ours / limit));
}

export async function timed(act: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await act();
  return performance.now() - start;
}
