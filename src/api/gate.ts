// Asks of each call that comes over TLS or the Unix socket who makes it, before its request is read:
// what is not permitted is refused here. What is permitted tells its handler who calls.
import {
  ServerInterceptingCall,
  status as grpcStatus,
  type ServerInterceptingCallInterface,
  type ServerInterceptor,
} from "@grpc/grpc-js";
import type { Logger } from "pino";
import type { OpenCall } from "../access/peer.ts";
import { Seldom } from "../access/seldom.ts";
import { CLIENT_CALLS, CLIENT_STREAMS } from "../limits.ts";
import type { Caller } from "../model/caller.ts";
import { Refusal } from "../model/errors.ts";
import type { Instruments } from "../telemetry/instruments.ts";
import { isPublic, refuseUnlessPermitted } from "./permissions.ts";
import { statusOf } from "./status.ts";

type AuthContext = ReturnType<ServerInterceptingCallInterface["getAuthContext"]>;
type Status = Parameters<ServerInterceptingCallInterface["sendStatus"]>[0];
type Listener = Parameters<ServerInterceptingCallInterface["start"]>[0];

/** Says who makes a call to whoever handles it; grpc-js hands it on. */
export class CallerContext implements AuthContext {
  readonly transportSecurityType = "gate";
  readonly caller: Caller;

  constructor(caller: Caller) {
    this.caller = caller;
  }
}

/** The other end of a connection. */
export type Connected = {
  /** Throws a Refusal if it is not known who it is. */
  readonly caller: () => Caller;
  /** For logs, also of one that is not known. */
  readonly name: () => string;
  /** Of this connection only. */
  readonly address: string;
  readonly calls: Set<OpenCall>;
  /** The connection takes no further calls: the client makes another. */
  readonly end: () => void;
};

type InProgress = { calls: number; streams: number };

export class Gate {
  readonly #log: Logger;
  readonly #instruments: Instruments;
  readonly #inProgress = new Map<string, InProgress>();
  readonly #told = new Seldom();

  constructor(log: Logger, instruments: Instruments) {
    this.#log = log;
    this.#instruments = instruments;
  }

  /** Of the calls of one connection. */
  interceptor(from: Connected): ServerInterceptor {
    return ({ path, responseStream }, next) => {
      const permitted = () => this.#callerOf(path, from);
      const refuse = (error: unknown) => next.sendStatus(this.#refusal(error, path, from));
      try {
        const caller = permitted();
        this.#enter(caller.name, responseStream);
        const call = new GatedCall(next, caller, {
          peer: from.address,
          ended: () => {
            from.calls.delete(call);
            this.#leave(caller.name, responseStream);
          },
          permitted,
          refuse,
        });
        from.calls.add(call);
        return call;
      } catch (error) {
        refuse(error);
        return new RefusedCall(next);
      }
    };
  }

  #callerOf(path: string, from: Connected): Caller {
    if (isPublic(path)) return knownOrNobody(from);
    const caller = from.caller();
    refuseUnlessPermitted(path, caller);
    return caller;
  }

  #enter(client: string, stream: boolean): void {
    const now = this.#inProgress.get(client) ?? { calls: 0, streams: 0 };
    const over =
      now.calls >= CLIENT_CALLS
        ? `${now.calls} calls in progress, the limit is ${CLIENT_CALLS}`
        : stream && now.streams >= CLIENT_STREAMS
          ? `${now.streams} streams open, the limit is ${CLIENT_STREAMS}`
          : undefined;
    if (over !== undefined) {
      throw new Refusal("OVERLOADED", `this client has ${over}`, { retryAfterMs: 1_000 });
    }
    now.calls += 1;
    if (stream) now.streams += 1;
    this.#inProgress.set(client, now);
  }

  #leave(client: string, stream: boolean): void {
    const now = this.#inProgress.get(client);
    if (now === undefined) return;
    now.calls -= 1;
    if (stream) now.streams -= 1;
    if (now.calls === 0) this.#inProgress.delete(client);
  }

  #refusal(error: unknown, path: string, from: Connected): Status {
    const method = path.slice(1);
    const status = statusOf(error, { method, log: this.#log });
    const code = grpcStatus[status.code] ?? String(status.code);
    this.#instruments.metrics.grpcCall({ method, code, durationMs: 0 });
    if (error instanceof Refusal) this.#tell(error, method, from);
    // The client may have another certificate by now, which it shows with its next connection.
    if (error instanceof Refusal && error.reason === "CERTIFICATE_INVALID") from.end();
    return status;
  }

  /** Of one client and reason not more often than a reader of the log can bear. */
  #tell({ reason, message }: Refusal, method: string, from: Connected): void {
    const { address } = from;
    const name = from.name();
    if (!this.#told.isDue(`${reason} ${name}`)) return;
    this.#log.warn({ actor: name, peer: address, method, reason, message }, "call refused");
  }
}

/** Public methods are for everybody; of those who are nobody, all count as one client. */
function knownOrNobody(from: Connected): Caller {
  try {
    return from.caller();
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    return { name: "", roles: [], hostNqns: [] };
  }
}

/** Its request is not read, and no handler runs. */
class RefusedCall extends ServerInterceptingCall {
  override start(): void {}
}

type HowGated = {
  readonly peer: string;
  readonly ended: () => void;
  /** Throws a Refusal. */
  readonly permitted: () => Caller;
  readonly refuse: (error: unknown) => void;
};

class GatedCall extends ServerInterceptingCall implements OpenCall {
  readonly #next: ServerInterceptingCallInterface;
  readonly #context: CallerContext;
  readonly #how: HowGated;
  #listener: Listener | undefined;
  #over = false;

  constructor(next: ServerInterceptingCallInterface, caller: Caller, how: HowGated) {
    super(next);
    this.#next = next;
    this.#context = new CallerContext(caller);
    this.#how = how;
  }

  recheck(): void {
    if (this.#over) return;
    try {
      this.#how.permitted();
    } catch (error) {
      this.#how.refuse(error);
      this.#end();
      // Its handler ends as if the client had cancelled.
      this.#listener?.onCancel();
    }
  }

  override start(listener: Listener): void {
    this.#listener = listener;
    this.#next.start({
      onReceiveMetadata: (metadata) => listener.onReceiveMetadata(metadata),
      onReceiveMessage: (message) => listener.onReceiveMessage(message),
      onReceiveHalfClose: () => listener.onReceiveHalfClose(),
      onCancel: () => {
        if (this.#over) return;
        this.#end();
        listener.onCancel();
      },
    });
  }

  override sendMetadata(metadata: Parameters<ServerInterceptingCall["sendMetadata"]>[0]): void {
    if (!this.#over) this.#next.sendMetadata(metadata);
  }

  override sendMessage(message: unknown, sent: () => void): void {
    if (!this.#over) this.#next.sendMessage(message, sent);
  }

  override sendStatus(status: Status): void {
    if (!this.#over) this.#next.sendStatus(status);
  }

  override getAuthContext(): AuthContext {
    return this.#context;
  }

  override getPeer(): string {
    return this.#how.peer;
  }

  #end(): void {
    this.#over = true;
    this.#how.ended();
  }
}
