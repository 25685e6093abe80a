// What a step of a volume is performed with.
import type { LvolRow, LvolStatusPatch } from "../../model/lvol.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import type { Rows } from "../../store/rows.ts";
import { attempt, type AfterLoss, type Attempt } from "../engine/attempt.ts";
import type { Lane, Lanes } from "../engine/lanes.ts";
import type { Observed } from "../target/observed.ts";
import type { Orphans } from "../target/orphans.ts";
import type { UnknownOutcomes } from "../target/unknown-outcomes.ts";
import type { NewVolumes } from "./new-volumes.ts";
import type { VolumePlanView } from "./view.ts";

export type VolumeStepContext = {
  readonly spdk: SpdkClient;
  readonly rows: Rows;
  readonly observed: Observed;
  readonly lanes: Lanes;
  readonly outcomes: UnknownOutcomes;
  readonly orphans: Pick<Orphans, "readLvols">;
  readonly newVolumes: Pick<NewVolumes, "has" | "delete">;
  readonly afterLoss: AfterLoss;
  /** After that long with an unknown outcome, what may be sent twice is sent. */
  readonly repeatMs: number;
  readonly writer: {
    readonly recordLvol: (
      row: Pick<LvolRow, "id" | "generation">,
      patch: LvolStatusPatch,
    ) => Promise<boolean>;
  };
  /** The target does not have the lvstore of the disk: clears the observed disk. */
  readonly lostStore: (diskId: string) => void;
};

export type PerformedStep = {
  readonly context: VolumeStepContext;
  readonly view: VolumePlanView;
  readonly lane: Lane;
  /** Every earlier change of the volume's subsystem was answered. */
  readonly settled: boolean;
};

/** One call of a step. nqn: the call changes that subsystem, so a lost answer is kept account of. */
export function trying<T>(
  on: Pick<PerformedStep, "context" | "lane"> & {
    readonly afterLoss: AfterLoss;
    readonly nqn: string | undefined;
  },
  call: Promise<T>,
): Promise<Attempt<T>> {
  const { context, lane, afterLoss, nqn } = on;
  if (nqn === undefined) return attempt(call, lane, afterLoss);
  return attempt(call, lane, afterLoss, (method, ended) =>
    context.outcomes.add(nqn, method, ended),
  );
}
