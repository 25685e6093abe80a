// Lanes: queues of acts that must not overlap on one target (docs/architecture.md#r1-lanes).
// Overlapping changes of one clone family, or of an lvol and the existence of its lvstore, crash
// SPDK and take every volume of the node down, so each act names the keys that it touches and waits
// for them. A lane opens when the answer has arrived, never on a timeout: a request that timed out
// may still be running.
//
// An act joins all of its queues at once, so arrival order is the same in every queue and no
// deadlock is possible. Each place in a queue is taken and left once, in O(1).
import { AsyncLocalStorage } from "node:async_hooks";

/**
 * - controller: a change of a PCI function, of its driver or on the target.
 * - disk `exclusive`: attach, detach, create and delete of the lvstore on it.
 * - disk `shared`: acts that must not overlap those, and may overlap each other.
 * - family: a change of an lvol; `root` is the root of its clone tree. Holds the disk shared.
 * - nqn: calls that name this NQN, in order of arrival.
 */
export type LaneKey =
  | { readonly kind: "controller"; readonly address: string }
  | { readonly kind: "disk"; readonly disk: string; readonly mode: Mode }
  | { readonly kind: "family"; readonly disk: string; readonly root: string }
  | { readonly kind: "nqn"; readonly nqn: string };

/** The keys that a running act holds. */
export type Lane = {
  /**
   * Keeps the act's keys held after the act ended until `settled` settles, for a request whose
   * answer the act did not wait for. Throws when the keys are already released.
   */
  readonly keepClosedUntil: (settled: Promise<unknown>) => void;
};

/** Ends a closure. Calling it again has no effect. */
export type Release = () => void;

type Mode = "exclusive" | "shared";

/** One resource. `first` to `last` is its queue; abandoned places are skipped when reached. */
type Track = {
  readonly name: string;
  holders: number;
  heldBy: Mode;
  waiting: number;
  first: Place | undefined;
  last: Place | undefined;
  readonly closures: Map<{ readonly reason: string }, Mode>;
  /** Tickets that hold all of their places and wait for a closure to end. */
  readonly parked: Set<Ticket>;
};

type Place = {
  readonly ticket: Ticket;
  readonly track: Track;
  readonly mode: Mode;
  state: "waiting" | "held" | "gone";
  next: Place | undefined;
};

type Ticket = {
  readonly places: Place[];
  readonly begin: () => void;
  missing: number;
  state: "waiting" | "running" | "gone";
};

export class Lanes {
  readonly #tracks = new Map<string, Track>();
  readonly #ready: Ticket[] = [];
  #draining = false;
  #waiting = 0;
  #running = 0;

  /** How many acts wait for their keys, and how many hold them. */
  get counts(): { readonly waiting: number; readonly running: number } {
    return { waiting: this.#waiting, running: this.#running };
  }

  /**
   * Runs `act` once it holds every key, in this tick if they are free. Resolves or rejects as the
   * act does. Aborting before the act has begun gives up its places and rejects with the signal's
   * reason; aborting later has no effect.
   */
  async run<T>(
    keys: readonly LaneKey[],
    act: (lane: Lane) => Promise<T>,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<T> {
    options.signal?.throwIfAborted();
    // A derived signal per act: adding a listener to a shared signal takes longer with each one.
    const signal = options.signal === undefined ? undefined : AbortSignal.any([options.signal]);
    const { promise: turn, resolve, reject } = Promise.withResolvers<Promise<T>>();
    // The act may be started from the async context of the act that released the keys: run it in
    // the context of its own caller.
    const boundAct = AsyncLocalStorage.bind(act);
    const begin = (): void => {
      signal?.removeEventListener("abort", abort);
      resolve(this.#hold(ticket, boundAct));
    };
    const ticket: Ticket = { places: [], begin, missing: 0, state: "waiting" };
    const abort = (): void => {
      this.#abandon(ticket);
      reject(signal?.reason);
    };
    signal?.addEventListener("abort", abort, { once: true });
    this.#join(ticket, keys);
    return await turn;
  }

  /** Whether an act with this key would have to wait now. */
  busy(key: LaneKey): boolean {
    return resourcesOf([key]).some(([name, mode]) => {
      const track = this.#tracks.get(name);
      return (
        track !== undefined && (track.waiting > 0 || !admits(track, mode) || closed(track, mode))
      );
    });
  }

  /**
   * Closes `key` until released: no further act may begin with it, the waiting ones included. Acts
   * that run already are not stopped; an act that holds all of its keys keeps them and waits. Used
   * for a family on which a request of unknown outcome may still be running
   * (docs/architecture.md#r2-unknown-outcomes): its disk is closed to exclusive holders, too.
   */
  close(key: LaneKey, reason: string): Release {
    const closure = { reason };
    const tracks = resourcesOf([key]).map(([name, mode]) => {
      const track = this.#track(name);
      track.closures.set(closure, mode);
      return track;
    });
    return () => {
      for (const track of tracks) {
        if (!track.closures.delete(closure)) continue;
        this.#ready.push(...track.parked);
        track.parked.clear();
        this.#forgetIfIdle(track);
      }
      this.#drain();
    };
  }

  /** The reasons for which `key` is closed; empty when it is not. */
  closedBy(key: LaneKey): readonly string[] {
    return resourcesOf([key]).flatMap(([name, mode]) =>
      [...(this.#tracks.get(name)?.closures ?? [])]
        .filter(([, closureMode]) => excludes(closureMode, mode))
        .map(([{ reason }]) => reason),
    );
  }

  #join(ticket: Ticket, keys: readonly LaneKey[]): void {
    this.#waiting += 1;
    for (const [name, mode] of resourcesOf(keys)) {
      const track = this.#track(name);
      const place: Place = { ticket, track, mode, state: "waiting", next: undefined };
      if (track.last === undefined) track.first = place;
      else track.last.next = place;
      track.last = place;
      track.waiting += 1;
      ticket.places.push(place);
    }
    ticket.missing = ticket.places.length;
    if (ticket.missing === 0) this.#ready.push(ticket);
    for (const { track } of ticket.places) this.#advance(track);
    this.#drain();
  }

  /** Lets the places at the head of the queue hold the track, as many as it admits. */
  #advance(track: Track): void {
    for (;;) {
      const place = track.first;
      if (place === undefined) break;
      const skip = place.state === "gone";
      if (!skip && !admits(track, place.mode)) break;
      track.first = place.next;
      if (track.first === undefined) track.last = undefined;
      if (skip) continue;
      place.state = "held";
      track.waiting -= 1;
      track.holders += 1;
      track.heldBy = place.mode;
      place.ticket.missing -= 1;
      if (place.ticket.missing === 0) this.#ready.push(place.ticket);
    }
    this.#forgetIfIdle(track);
  }

  /** Begins the tickets that are ready. A loop, not a recursion: thousands may be ready at once. */
  #drain(): void {
    if (this.#draining) return;
    this.#draining = true;
    for (const ticket of this.#ready) this.#beginOrPark(ticket);
    this.#ready.length = 0;
    this.#draining = false;
  }

  #beginOrPark(ticket: Ticket): void {
    if (ticket.state !== "waiting") return;
    const blocked = ticket.places.find(({ track, mode }) => closed(track, mode));
    if (blocked !== undefined) {
      blocked.track.parked.add(ticket);
      return;
    }
    ticket.state = "running";
    this.#waiting -= 1;
    this.#running += 1;
    ticket.begin();
  }

  async #hold<T>(ticket: Ticket, act: (lane: Lane) => Promise<T>): Promise<T> {
    let holds = 1;
    const drop = (): void => {
      holds -= 1;
      if (holds > 0) return;
      this.#running -= 1;
      this.#leave(ticket);
    };
    const keepClosedUntil = (settled: Promise<unknown>): void => {
      if (holds === 0) throw new Error("the keys of this lane are already released");
      holds += 1;
      settled.then(drop, drop);
    };
    try {
      return await act({ keepClosedUntil });
    } finally {
      drop();
    }
  }

  #abandon(ticket: Ticket): void {
    this.#waiting -= 1;
    this.#leave(ticket);
  }

  #leave(ticket: Ticket): void {
    ticket.state = "gone";
    for (const place of ticket.places) {
      if (place.state === "held") place.track.holders -= 1;
      else place.track.waiting -= 1;
      place.state = "gone";
    }
    for (const { track } of ticket.places) this.#advance(track);
    this.#drain();
  }

  #track(name: string): Track {
    let track = this.#tracks.get(name);
    if (track === undefined) {
      track = {
        name,
        holders: 0,
        heldBy: "shared",
        waiting: 0,
        first: undefined,
        last: undefined,
        closures: new Map(),
        parked: new Set(),
      };
      this.#tracks.set(name, track);
    }
    return track;
  }

  #forgetIfIdle(track: Track): void {
    const idle = track.holders === 0 && track.first === undefined && track.closures.size === 0;
    if (idle) this.#tracks.delete(track.name);
  }
}

function admits(track: Track, mode: Mode): boolean {
  return track.holders === 0 || !excludes(track.heldBy, mode);
}

function closed(track: Track, mode: Mode): boolean {
  for (const closure of track.closures.values()) if (excludes(closure, mode)) return true;
  return false;
}

function excludes(one: Mode, other: Mode): boolean {
  return one === "exclusive" || other === "exclusive";
}

/**
 * The resources of the keys, each once and in the stronger mode: an act must not wait for itself.
 */
function resourcesOf(keys: readonly LaneKey[]): readonly (readonly [name: string, mode: Mode])[] {
  const modes = new Map<string, Mode>();
  const add = (name: string, mode: Mode): void => {
    if (modes.get(name) !== "exclusive") modes.set(name, mode);
  };
  for (const key of keys) {
    if (key.kind === "nqn") add(`nqn ${key.nqn}`, "exclusive");
    else if (key.kind === "controller") add(`controller ${key.address}`, "exclusive");
    else add(`disk ${key.disk}`, key.kind === "disk" ? key.mode : "shared");
    if (key.kind === "family") add(`family ${key.disk} ${key.root}`, "exclusive");
  }
  return [...modes];
}
