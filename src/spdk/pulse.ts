// Whether the target answers at all. A process that is stopped or hangs keeps its socket open, so only the
// time since its last answer tells. When nothing else was asked for half of the limit, one small call is.
import type { SpdkConnection } from "./connection.ts";
import { TARGET_LOAD_SILENT_MS } from "../limits.ts";

export type PulseOptions = {
  readonly connection: Pick<
    SpdkConnection,
    "call" | "connected" | "connectionNumber" | "answers" | "waiting"
  >;
  /** The target counts as silent once nothing was answered for that long. */
  readonly silenceMs: number;
  /** Called when the target fell silent, and when it answers again or the connection was lost. */
  readonly onChange: () => void;
};

/** Looks within the limit, so that a silence is noticed before it has passed. */
const LOOKS = 20;

/** While one of these is unanswered the target may be loading a store, which takes as long as it takes. */
const LOADS: ReadonlySet<string> = new Set([
  "bdev_nvme_attach_controller",
  "bdev_wait_for_examine",
]);

export class Pulse implements Disposable {
  readonly #options: PulseOptions;
  readonly #lookMs: number;
  readonly #timer: NodeJS.Timeout;
  #connectionNumber = 0;
  #answers = 0;
  #lastLookMs = performance.now();
  #quietMs = 0;
  #silentSince: Date | undefined;
  /** False: the target may end at whatever it is asked, and waits for its next try. */
  mayAsk = true;

  constructor(options: PulseOptions) {
    this.#options = options;
    this.#lookMs = options.silenceMs / LOOKS;
    this.#timer = setInterval(() => this.#look(), this.#lookMs).unref();
  }

  /** Since when nothing was answered; undefined: not for too long. */
  get silentSince(): Date | undefined {
    return this.#options.connection.connected ? this.#silentSince : undefined;
  }

  /** Whether a request is unanswered during which the target may load stores. */
  get loads(): boolean {
    return this.#options.connection.waiting().some(({ method }) => LOADS.has(method));
  }

  #look(): void {
    const { connection, silenceMs } = this.#options;
    const { answers, connected, connectionNumber } = connection;
    const nowMs = performance.now();
    // A look that is late says nothing of the target: this process stood still.
    const passedMs = Math.min(nowMs - this.#lastLookMs, 2 * this.#lookMs);
    this.#lastLookMs = nowMs;
    const isNew = answers !== this.#answers || connectionNumber !== this.#connectionNumber;
    this.#answers = answers;
    this.#connectionNumber = connectionNumber;
    if (isNew || !connected) {
      this.#quietMs = 0;
      this.#set(undefined);
      return;
    }
    this.#quietMs += passedMs;
    const waits = connection.waiting().next().done !== true;
    if (!waits && this.mayAsk && this.#quietMs >= silenceMs / 2) {
      connection.call("spdk_get_version", undefined, { waitMs: silenceMs });
    }
    // The last answer came up to one look before the quiet was counted.
    if (!waits || this.#quietMs < silenceMs - this.#lookMs) return;
    if (this.loads && this.#quietMs < TARGET_LOAD_SILENT_MS) return;
    this.#set(this.#silentSince ?? new Date(Date.now() - this.#quietMs));
  }

  #set(since: Date | undefined): void {
    if (since === this.#silentSince) return;
    this.#silentSince = since;
    this.#options.onChange();
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}
