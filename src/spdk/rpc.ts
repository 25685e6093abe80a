// Typed JSON-RPC calls over SpdkConnection: turns an outcome into a parsed reply or throws one of
// the three errors of errors.ts. It never retries, and never sends a change before the target's
// release is known.

import { capabilitiesOf, type Capabilities } from "./capabilities.ts";
import type { CallOptions, SpdkConnection } from "./connection.ts";
import { SpdkError, SpdkNotSent, SpdkUnknownOutcome } from "./errors.ts";
import type { Read } from "./fields.ts";
import { version } from "./replies-target.ts";
import type { StoreChanges } from "./store-changes.ts";

/**
 * Milliseconds a caller waits for an answer, per kind of call. A sent request cannot be cancelled.
 */
export const WAIT_MS = {
  read: 10_000,
  change: 60_000,
  /** Attaching loads the lvstore: 2.9 s at 5,000 lvols, minutes after a crash. Never re-sent. */
  load: 600_000,
  /** Calls that write zeros to or copy data over large parts of a disk. */
  bulk: 1_800_000,
} as const;

/** Last parameter of every typed method. Aborting ends the wait, not a request that was sent. */
export type CallerOptions = { readonly signal?: AbortSignal; readonly waitMs?: number };

type Params = Readonly<Record<string, unknown>>;

export class Rpc {
  readonly #connection: SpdkConnection;
  readonly #changes: StoreChanges | undefined;
  #known:
    { readonly connectionNumber: number; readonly capabilities: Promise<Capabilities> } | undefined;

  constructor(connection: SpdkConnection, changes?: StoreChanges) {
    this.#connection = connection;
    this.#changes = changes;
  }

  /**
   * Capabilities of the connected target, read once per connection. Throws UnsupportedRelease and
   * as `read`.
   */
  capabilities(): Promise<Capabilities> {
    const { connectionNumber } = this.#connection;
    if (this.#known?.connectionNumber === connectionNumber) return this.#known.capabilities;
    const capabilities = this.read("spdk_get_version", undefined, version).then(capabilitiesOf);
    const known = { connectionNumber, capabilities };
    this.#known = known;
    // Keep an answer for the whole connection; without an answer, let the next caller ask again.
    capabilities.catch((error: unknown) => {
      const answered = !(error instanceof SpdkNotSent || error instanceof SpdkUnknownOutcome);
      if (!answered && this.#known === known) this.#known = undefined;
    });
    return capabilities;
  }

  /** Throws SpdkError, SpdkUnknownOutcome, SpdkNotSent or ReplyFault. */
  async read<T>(
    method: string,
    params: Params | undefined,
    parse: Read<T>,
    options: CallerOptions & { readonly dump?: boolean } = {},
  ): Promise<T> {
    return await this.#call(method, params, parse, { waitMs: WAIT_MS.read, ...options });
  }

  /**
   * As `read`, but subject to the write fence and, with `store` (an lvstore's uuid), to that
   * store's limit of requests in flight.
   */
  async change<T>(
    method: string,
    params: Params,
    parse: Read<T>,
    options: CallerOptions & { readonly store?: string | undefined } = {},
  ): Promise<T> {
    try {
      await this.capabilities();
    } catch (cause) {
      const reason = cause instanceof SpdkNotSent ? cause.reason : "release";
      throw new SpdkNotSent(method, reason, { cause });
    }
    const defaults = { waitMs: WAIT_MS.change, mutates: true };
    return await this.#call(method, params, parse, { ...defaults, ...options });
  }

  async #call<T>(
    method: string,
    params: Params | undefined,
    parse: Read<T>,
    options: CallOptions,
  ): Promise<T> {
    const { store } = options;
    if (store !== undefined) this.#changes?.began(store);
    const call = this.#connection.call(method, params, options);
    if (store !== undefined) void call.settled.finally(() => this.#changes?.ended(store));
    const outcome = await call.outcome;
    if (outcome.kind === "ok") return parse(outcome.result, { key: method });
    if (outcome.kind === "error") throw new SpdkError(method, outcome.code, outcome.message);
    if (outcome.kind === "not_sent") throw new SpdkNotSent(method, outcome.reason);
    throw new SpdkUnknownOutcome(method, outcome.reason, call.settled);
  }
}

/**
 * Resolves with undefined if SPDK answers that the object does not exist; rethrows other failures.
 */
export async function absentAsUndefined<T>(reading: Promise<T>): Promise<T | undefined> {
  try {
    return await reading;
  } catch (error) {
    if (error instanceof SpdkError && error.kind === "absent") return undefined;
    throw error;
  }
}
