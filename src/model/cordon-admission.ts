// Admission of Cordon and Uncordon, of the node or of one disk. Pure, as admission.ts. No loop fulfils
// them: they take effect in the admission of the next volume, and change no generation.
import type { DiskRow } from "./disk.ts";
import { Refusal } from "./errors.ts";
import type { Intent } from "./intent.ts";

export type CordonChange = {
  readonly kind: "cordon";
  /** What `id` names. */
  readonly of: "node" | "disk";
  readonly cordoned: boolean;
  /** Why; empty for Uncordon. */
  readonly reason: string;
};

/** The part of the admission state that these intents see and change. */
export type CordonState = {
  nodeCordoned: boolean;
  readonly now: Date;
  readonly revision: bigint;
  readonly disks: Map<string, DiskRow>;
};

/** Returns whether it was otherwise before. */
export function changeCordon(
  state: CordonState,
  { of, id, cordoned }: Intent & CordonChange,
): boolean {
  if (of === "node") {
    const changed = state.nodeCordoned !== cordoned;
    state.nodeCordoned = cordoned;
    return changed;
  }
  const disk = state.disks.get(id);
  if (disk === undefined) throw new Refusal("NOT_FOUND", `disk ${id} is not on this node`);
  if (disk.cordoned === cordoned) return false;
  const { revision, now: updateTime } = state;
  state.disks.set(id, { ...disk, cordoned, revision, updateTime });
  return true;
}
