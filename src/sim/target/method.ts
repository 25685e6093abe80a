// Types of RPC methods of the target: a method validates and reserves when it starts, and either
// answers at once or takes effect at a later poll and answers after that.
import type { JsonValue } from "./json.ts";
import type { Operation, Operations } from "./operation.ts";
import type { Release } from "./release.ts";
import type { Target } from "./target.ts";

export type Later = {
  readonly kind: "later";
  /** Polls between its start and its effect; 0 is the end of the poll that started it. */
  readonly polls: number;
  /**
   * Effects with the same key are applied in the order of their starts (one subsystem, one family).
   */
  readonly order?: string;
  /** Not before this holds; asked at the end of every poll. */
  readonly isDue?: () => boolean;
  /** The changes that it makes, until it has taken effect. */
  readonly operations?: readonly Operation[];
  /** Applies the effect; returns the answer, or a HalfDone. Throws RpcError. */
  readonly complete: () => unknown;
};

/** Half of the effect is applied; the rest and the answer follow at a later poll. */
export class HalfDone {
  readonly rest: () => unknown;
  readonly isDue: () => boolean;

  /** `isDue`: the rest does not follow before it holds. */
  constructor(rest: () => unknown, isDue: () => boolean = () => true) {
    this.rest = rest;
    this.isDue = isDue;
  }
}

/** Holds once `ms` have passed from now. */
export function after(ms: number): () => boolean {
  const at = performance.now() + ms;
  return () => performance.now() >= at;
}

export type Started = { readonly kind: "done"; readonly result: unknown } | Later;

export type Context = {
  readonly target: Target;
  readonly operations: Operations;
  readonly strict: boolean;
  readonly release: Release;
  /** The id of the request as text, for the abort message. */
  readonly id: string;
  readonly method: string;
  /** A delete is to fail halfway (fault injection). */
  readonly failsHalfway: boolean;
  /** The drive at a PCIe function, if that can be attached; "by address" without a kernel (--root). */
  readonly driveAt: (address: string) => { readonly id: string } | undefined | "by address";
  /** The function's vfio group is opened, or the function is closed (--root). */
  readonly groupUse: (address: string, used: boolean) => void;
  /** Writes or erases the blobstore signature at the start of a disk image (--root). */
  readonly markDisk: (
    disk: { readonly id: string; readonly nsid: number },
    marked: boolean,
  ) => void;
  /** Whether that signature is there. */
  readonly isMarked: (disk: { readonly id: string; readonly nsid: number }) => boolean;
};

export type Method = (context: Context, params: JsonValue | undefined) => Started;

export type Methods = Readonly<Record<string, Method>>;

export function done(result: unknown): Started {
  return { kind: "done", result };
}
