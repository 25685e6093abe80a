// How many calls and streams are open at once: of all callers, and of one connection, so that no client takes
// what the others need. Health checks and operators have calls and streams that nobody else can use up.
import {
  MAX_CALLS,
  MAX_CONNECTION_STREAMS,
  MAX_HEALTH_STREAMS,
  MAX_REFLECTION_STREAMS,
  MAX_STREAMS,
  RESERVED_CALLS,
} from "../limits.ts";
import { Refusal } from "../model/errors.ts";

/** A call of `method`, `package.Service/Method`, from a peer, which names one connection. */
export type Caller = { readonly method: string; readonly peer: string };

/** Streams of one kind cannot use up those of another. */
type StreamKind = "health" | "reflection" | "node";

const STREAMS_OF: Readonly<Record<StreamKind, number>> = {
  health: MAX_HEALTH_STREAMS,
  reflection: MAX_REFLECTION_STREAMS,
  node: MAX_STREAMS,
};

/** Calls by which a probe or an operator finds out what is wrong, and ends it; none of them waits. */
const RESERVED: ReadonlySet<string> = new Set([
  "grpc.health.v1.Health/Check",
  ...[
    "GetNode",
    "GetHealth",
    "ListDisks",
    "ListEvents",
    "ListOrphans",
    "Explain",
    "Cordon",
    "Uncordon",
    "ResolveOutcome",
  ].map((name) => `storagenode.v1.StorageNode/${name}`),
]);

export class CallLimits {
  #calls = 0;
  readonly #streams = { health: 0, reflection: 0, node: 0 };
  readonly #streamsOfPeer = new Map<string, number>();

  /** Counts a call until it is disposed of. Throws a Refusal. */
  enterCall({ method }: Caller): Disposable {
    const limit = RESERVED.has(method) ? MAX_CALLS : MAX_CALLS - RESERVED_CALLS;
    if (this.#calls >= limit) {
      throw overloaded(`${this.#calls} calls in progress, the limit is ${limit}`);
    }
    this.#calls += 1;
    return { [Symbol.dispose]: () => void (this.#calls -= 1) };
  }

  /** As enterCall, for a call that stays open. */
  enterStream({ method, peer }: Caller): Disposable {
    const kind = kindOf(method);
    const [open, limit] = [this.#streams[kind], STREAMS_OF[kind]];
    if (open >= limit) throw overloaded(`${open} streams are open, the limit is ${limit}`);
    const ofPeer = this.#streamsOfPeer.get(peer) ?? 0;
    if (ofPeer >= MAX_CONNECTION_STREAMS) {
      const open = `${ofPeer} streams are open on this connection`;
      throw overloaded(`${open}, the limit is ${MAX_CONNECTION_STREAMS}`);
    }
    this.#streams[kind] += 1;
    this.#streamsOfPeer.set(peer, ofPeer + 1);
    return { [Symbol.dispose]: () => this.#leaveStream(kind, peer) };
  }

  #leaveStream(kind: StreamKind, peer: string): void {
    this.#streams[kind] -= 1;
    const left = (this.#streamsOfPeer.get(peer) ?? 0) - 1;
    if (left > 0) this.#streamsOfPeer.set(peer, left);
    else this.#streamsOfPeer.delete(peer);
  }
}

function kindOf(method: string): StreamKind {
  if (method.startsWith("grpc.health.")) return "health";
  return method.startsWith("grpc.reflection.") ? "reflection" : "node";
}

function overloaded(message: string): Refusal {
  return new Refusal("OVERLOADED", message, { retryAfterMs: 1_000 });
}
