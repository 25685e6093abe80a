// What every intent has, whatever it is about, and what it changes in the row that it is stored in. Pure.

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
