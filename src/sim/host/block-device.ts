// One block device of a simulated host. Its I/O waits while the controller is not connected, and
// fails for ever once the device was removed, also for whoever still holds it open.
import type { Clock } from "./clock.ts";
import type { HostIo, IoOutcome, ScannedNamespace, Session } from "./fabric.ts";

export type IoResult =
  { readonly ok: true; readonly bytes: Buffer } | { readonly ok: false; readonly reason: string };

type Pending = {
  readonly order: number;
  readonly io: HostIo;
  readonly since: number;
  readonly resolve: (result: IoResult) => void;
};

const NOTHING = Buffer.alloc(0);

export class BlockDevice {
  /** Grows with every device that the host makes: a device that came back the same keeps it. */
  readonly diskseq: number;
  readonly uuid: string;
  readonly nguid: string;
  /** Size, as of the last scan. */
  bytes: number;
  readonly #clock: Clock;
  #session: Session | undefined;
  #queued: Pending[] = [];
  readonly #inFlight = new Set<Pending>();
  #removed: string | undefined;
  #order = 0;
  /** Longest time that an I/O which succeeded had to wait. */
  #longestMs = 0;

  constructor(options: {
    readonly diskseq: number;
    readonly namespace: ScannedNamespace;
    readonly clock: Clock;
  }) {
    this.diskseq = options.diskseq;
    this.uuid = options.namespace.uuid;
    this.nguid = options.namespace.nguid;
    this.bytes = options.namespace.bytes;
    this.#clock = options.clock;
  }

  get removed(): boolean {
    return this.#removed !== undefined;
  }

  /** Number of I/Os without an end. */
  get waiting(): number {
    return this.#queued.length + this.#inFlight.size;
  }

  /** The longest wait, of an I/O that succeeded or that still waits. */
  get longestGapMs(): number {
    const now = this.#clock.now();
    const open = [...this.#queued, ...this.#inFlight].map(({ since }) => now - since);
    return Math.max(this.#longestMs, ...open);
  }

  is({ uuid, nguid }: ScannedNamespace): boolean {
    return this.uuid === uuid && this.nguid === nguid;
  }

  submit(io: HostIo): Promise<IoResult> {
    if (this.#removed !== undefined) return Promise.resolve({ ok: false, reason: this.#removed });
    return new Promise((resolve) => {
      const pending = { order: (this.#order += 1), io, since: this.#clock.now(), resolve };
      if (this.#session === undefined) this.#queued.push(pending);
      else void this.#send(this.#session, pending);
    });
  }

  /** The controller is connected: I/O that waited is sent, in its order. */
  resume(session: Session): void {
    if (this.#session === session || this.removed) return;
    this.#session = session;
    const queued = this.#queued.toSorted((a, b) => a.order - b.order);
    this.#queued = [];
    for (const one of queued) void this.#send(session, one);
  }

  /** The connection is gone: I/O waits from now on. */
  pause(): void {
    this.#session = undefined;
  }

  /** All I/O fails, now and in future. */
  remove(reason: string): void {
    this.#removed = reason;
    this.#session = undefined;
    const queued = this.#queued;
    this.#queued = [];
    for (const { resolve } of queued) resolve({ ok: false, reason });
  }

  async #send(session: Session, pending: Pending): Promise<void> {
    this.#inFlight.add(pending);
    const outcome: IoOutcome = await session.io(pending.io);
    this.#inFlight.delete(pending);
    switch (outcome.kind) {
      case "done":
        this.#longestMs = Math.max(this.#longestMs, this.#clock.now() - pending.since);
        pending.resolve({ ok: true, bytes: outcome.bytes ?? NOTHING });
        return;
      case "failed":
        pending.resolve({ ok: false, reason: outcome.reason });
        return;
      case "disconnected":
        break;
    }
    if (this.#removed !== undefined) pending.resolve({ ok: false, reason: this.#removed });
    else if (this.#session === undefined || this.#session === session) this.#queued.push(pending);
    else void this.#send(this.#session, pending);
  }
}
