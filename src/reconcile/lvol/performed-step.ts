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
  readonly orphans: Pick<Orphans, "readLvols" | "onAnotherDisk">;
  readonly newVolumes: Pick<NewVolumes, "has" | "delete">;
  readonly afterLoss: AfterLoss;
  /** After that long with an unknown outcome, what may be sent twice is sent. */
  readonly repeatMs: number;
  /** How long the answer to a change of a subsystem is waited for. */
  readonly nvmfWaitMs: number;
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

/** One call that changes a subsystem or an lvol, also that of a snapshot: a lost answer is kept account of. */
export function changing<T>(
  {
    context,
    lane,
    view,
  }: {
    readonly context: Pick<VolumeStepContext, "outcomes" | "afterLoss">;
    readonly lane: Lane;
    readonly view: { readonly row: { readonly id: string } };
  },
  of: "subsystem" | "lvol",
  call: Promise<T>,
): Promise<Attempt<T>> {
  const { outcomes, afterLoss } = context;
  const lost = (method: string, ended: Promise<void>) =>
    outcomes.add(view.row.id, of, method, ended);
  return attempt(call, { lane, afterLoss, lost });
}
