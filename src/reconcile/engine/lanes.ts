// Lanes: what may run at the same time on one target (DESIGN 3.1). Overlapping changes of one clone
// family, or of an lvol and its store's existence, crash SPDK and take every volume of the node
// down, so each act names what it touches and waits its turn. A lane opens when the answer is in,
// never on a timeout: a request that timed out is still running.
//
// Acts take their place in all of their queues at once, so the order of arrival is one order for
// all keys and nobody waits in a circle. Each place is taken and given up once, in O(1).
import { AsyncLocalStorage } from "node:async_hooks";

/**
 * - disk `exclusive`: attach, detach, create and delete of the store on it.
 * - disk `shared`: what must not see those happen, and minds nobody else.
 * - family: a change of an lvol; `root` is the root of its clone tree. Holds the disk shared.
 * - nqn: calls that name this NQN, in order of arrival.
 */
export type LaneKey =
  | { readonly kind: "disk"; readonly disk: string; readonly mode: Mode }
  | { readonly kind: "family"; readonly disk: string; readonly root: string }
  | { readonly kind: "nqn"; readonly nqn: string };

/** What an act holds while it runs. */
export type Lane = {
  /**
   * Keeps the act's keys closed after the act ended, until `settled` ends too: for the answer of a
   * request that was not waited for. Throws when the keys are open already.
   */
  readonly keepClosedUntil: (settled: Promise<unknown>) => void;
};

/** Opens what was closed. Calling it again has no effect. */
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
  /** Have their turn, and wait for a closure to end. */
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

  /** Acts that wait for their turn, and acts whose keys are held. */
  get counts(): { readonly waiting: number; readonly running: number } {
    return { waiting: this.#waiting, running: this.#running };
  }

  /**
   * Runs `act` when every key is its own, in this tick if they are free. Resolves or rejects as the
   * act does. Aborting gives the turn up and rejects with the signal's reason; an act that has
   * begun is left alone.
   */
  async run<T>(
    keys: readonly LaneKey[],
    act: (lane: Lane) => Promise<T>,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<T> {
    options.signal?.throwIfAborted();
    // Its own signal: each listener more on a shared one makes the next one slower to add.
    const signal = options.signal === undefined ? undefined : AbortSignal.any([options.signal]);
    const { promise: turn, resolve, reject } = Promise.withResolvers<Promise<T>>();
    // Begun by whoever left the lane, and yet what it does belongs to the one who came with it.
    const own = AsyncLocalStorage.bind(act);
    const begin = (): void => {
      signal?.removeEventListener("abort", abort);
      resolve(this.#hold(ticket, own));
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
   * Lets nobody new hold `key`, before everybody who waits, until released. Acts that run already
   * are not stopped; one that has its turn keeps it and waits. For a family on which an operation
   * of unknown end may still be running (DESIGN 3.2): its disk is closed to exclusive holders too.
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
        .filter(([, by]) => excludes(by, mode))
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

  /** Gives the track to as many of its queue's head as it admits. */
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

  /** Begins what has its turn. A loop, not a recursion: thousands may get theirs at once. */
  #drain(): void {
    if (this.#draining) return;
    this.#draining = true;
    for (const ticket of this.#ready) this.#beginOrPark(ticket);
    this.#ready.length = 0;
    this.#draining = false;
  }

  #beginOrPark(ticket: Ticket): void {
    if (ticket.state !== "waiting") return;
    const shut = ticket.places.find(({ track, mode }) => closed(track, mode));
    if (shut !== undefined) {
      shut.track.parked.add(ticket);
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
      if (holds === 0) throw new Error("lane is open already");
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
  for (const by of track.closures.values()) if (excludes(by, mode)) return true;
  return false;
}

function excludes(one: Mode, other: Mode): boolean {
  return one === "exclusive" || other === "exclusive";
}

/** Each resource once, in its stronger mode: a key must not wait for another of the same act. */
function resourcesOf(keys: readonly LaneKey[]): readonly (readonly [name: string, mode: Mode])[] {
  const modes = new Map<string, Mode>();
  const add = (name: string, mode: Mode): void => {
    if (modes.get(name) !== "exclusive") modes.set(name, mode);
  };
  for (const key of keys) {
    if (key.kind === "nqn") add(`nqn ${key.nqn}`, "exclusive");
    else add(`disk ${key.disk}`, key.kind === "disk" ? key.mode : "shared");
    if (key.kind === "family") add(`family ${key.disk} ${key.root}`, "exclusive");
  }
  return [...modes];
}
