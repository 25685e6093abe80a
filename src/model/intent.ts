// What every intent has, whatever it is about, and what it changes in the row that it is stored in. Pure.
import { Refusal } from "./errors.ts";
import type { LvolRow } from "./lvol.ts";

export type Intent = {
  /** Of the object. */
  readonly id: string;
  /** Who asks; stored with the intent. */
  readonly actor: string;
  readonly traceparent: string | undefined;
};

/** What changes with every intent; it also ends the back-offs of the object. */
export function newIntent(
  { revision, now }: { readonly revision: bigint; readonly now: Date },
  { generation }: { readonly generation: bigint },
  { actor, traceparent }: Pick<Intent, "actor" | "traceparent">,
) {
  return {
    generation: generation + 1n,
    actor,
    traceparent,
    attempt: 0,
    nextTryTime: undefined,
    revision,
    updateTime: now,
  };
}

export function noVolume(id: string, isSnapshot: boolean): Refusal {
  const hint = isSnapshot ? "; a snapshot has that id" : "";
  return new Refusal("NOT_FOUND", `volume ${id} is not on this node${hint}`);
}

/** The volume of an intent about one that exists. Throws a Refusal if this node has none of that id. */
export function ownVolume(
  {
    lvols,
    snapshots,
    policy,
  }: {
    readonly lvols: ReadonlyMap<string, LvolRow>;
    readonly snapshots: ReadonlyMap<string, unknown>;
    readonly policy: { readonly nodeId: string };
  },
  id: string,
): LvolRow {
  const row = lvols.get(id);
  if (row === undefined || row.nodeId !== policy.nodeId || row.deleteTime !== undefined) {
    throw noVolume(id, snapshots.has(id));
  }
  return row;
}

export function refuseDeleting({ id, deleteRequestedTime }: LvolRow): void {
  if (deleteRequestedTime === undefined) return;
  throw new Refusal("ID_RETIRED", `volume ${id} is being deleted`);
}
