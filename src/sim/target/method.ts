// The shape of a method of the target: it checks and reserves when it starts, and either has its
// answer then, or has its effect later and answers after it.
import type { JsonValue } from "./json.ts";
import type { Operation, Operations } from "./operation.ts";
import type { Release } from "./release.ts";
import type { Target } from "./target.ts";

export type Later = {
  readonly kind: "later";
  /** Polls between its start and its effect; 0 is the end of the poll that started it. */
  readonly polls: number;
  /** Effects with the same key come in the order of their starts (changes of one subsystem). */
  readonly order?: string;
  readonly operation?: Operation;
  /** Makes the effect; its result is the answer, or a Midway. Throws RpcError. */
  readonly complete: () => unknown;
};

/** Half of the effect is on the disk; the rest and the answer come with a later poll. */
export class HalfDone {
  readonly rest: () => unknown;

  constructor(rest: () => unknown) {
    this.rest = rest;
  }
}

export type Started = { readonly kind: "done"; readonly result: unknown } | Later;

export type Context = {
  readonly target: Target;
  readonly operations: Operations;
  readonly strict: boolean;
  readonly release: Release;
  /** The id of the request, as text, for the line that an abort leaves. */
  readonly id: string;
  readonly method: string;
  /** Whether a PCIe function can be attached (--root), by its address. */
  readonly attachable: (address: string) => boolean;
  /** Leaves or takes away the mark of a store at the start of a disk (--root). */
  readonly markDisk: (serial: string, marked: boolean) => void;
};

export type Method = (context: Context, params: JsonValue | undefined) => Started;

export type Methods = Readonly<Record<string, Method>>;

export function done(result: unknown): Started {
  return { kind: "done", result };
}
