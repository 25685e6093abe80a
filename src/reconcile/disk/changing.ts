// A call of a disk's step that changes the target: a lost answer is kept account of.
import type { DiskRow } from "../../model/disk.ts";
import { attempt, type AfterLoss, type Attempt } from "../engine/attempt.ts";
import type { Lane } from "../engine/lanes.ts";
import type { UnknownOutcomes } from "../target/unknown-outcomes.ts";

export type ChangeContext = {
  readonly outcomes: UnknownOutcomes;
  readonly afterLoss: AfterLoss;
};

export function changing<T>(
  on: {
    readonly context: ChangeContext;
    readonly row: Pick<DiskRow, "id">;
    readonly lane: Lane;
  },
  call: Promise<T>,
): Promise<Attempt<T>> {
  const { context, row, lane } = on;
  const { outcomes, afterLoss } = context;
  const lost = (method: string, ended: Promise<void>) =>
    outcomes.add(row.id, "disk", method, ended);
  return attempt(call, { lane, afterLoss, lost });
}
