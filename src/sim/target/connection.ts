// One client connection of the target: bytes not parsed yet, answers to send, batches in progress.
import type { Socket } from "node:net";
import type { Engine } from "./engine.ts";
import { answerLine } from "./engine.ts";
import { parseJson, type JsonValue } from "./json.ts";
import { readRequest } from "./request.ts";
import { invalidRequest } from "./rpc-error.ts";

/** A longer answer is cut here, without a newline (docs/spdk-contract.md#limits). */
const MAX_ANSWER_BYTES = 33_554_432;
const PAUSE_BYTES = 1_048_576;

export class ClientConnection {
  readonly #socket: Socket;
  readonly #engine: Engine;
  #unread = "";
  #ready: string[] = [];
  #pending = 0;
  #ended = false;

  constructor(socket: Socket, engine: Engine, onWork: () => void) {
    this.#socket = socket;
    this.#engine = engine;
    socket.on("data", (chunk) => {
      this.#unread += chunk.toString("latin1");
      if (this.#unread.length > PAUSE_BYTES) socket.pause();
      onWork();
    });
    socket.on("end", () => {
      this.#ended = true;
      onWork();
    });
    // A client that disconnects cancels nothing: requests already read still complete.
    socket.on("error", () => {});
  }

  /** Whether the next poll has answers to send or input to parse here. */
  get busy(): boolean {
    return this.#ready.length > 0 || this.#hasInput;
  }

  get #hasInput(): boolean {
    return this.#waiting !== this.#unread.length && this.#unread !== "";
  }

  /** Bytes of an incomplete request: nothing to parse until more arrive. */
  #waiting = 0;

  flush(): void {
    if (this.#ready.length > 0 && !this.#socket.destroyed) {
      this.#socket.write(this.#ready.join(""), "utf8");
    }
    this.#ready = [];
    if (this.#ended && this.#pending === 0 && !this.#hasInput) this.#socket.end();
  }

  /** Starts the complete requests of one read; stops early where the gate stops the target. */
  startRequests(): void {
    // One poll parses at most the maximum size of a request.
    const { requestBytes, requestValues } = this.#engine.release;
    const window = this.#unread.slice(0, requestBytes);
    let position = 0;
    let incomplete = false;
    while (position < window.length && !this.#engine.gate.stopped) {
      const parsed = parseJson(window, position, requestValues);
      if (parsed.kind === "invalid") {
        this.#drop();
        return;
      }
      incomplete = parsed.kind === "incomplete";
      if (parsed.kind === "incomplete") break;
      if (!this.#start(parsed.value)) break;
      position = parsed.end;
    }
    this.#unread = this.#unread.slice(position);
    this.#waiting = incomplete && this.#unread.length < requestBytes ? this.#unread.length : 0;
    // A request that fills the whole buffer and is still incomplete is too long.
    if (incomplete && position === 0 && window.length === requestBytes) this.#drop();
    else if (this.#unread.length < PAUSE_BYTES) this.#socket.resume();
  }

  /** False: the gate stopped the target before this request. */
  #start(value: JsonValue): boolean {
    if (isArray(value)) {
      this.#startBatch(value);
      return true;
    }
    const read = readRequest(value);
    if (read.kind === "request") {
      const { method, params } = read.request;
      if (this.#engine.gate.stopsBefore(method, params)) return false;
    }
    this.#pending += 1;
    this.#startOne(read, (line) => {
      this.#pending -= 1;
      if (line !== undefined) this.#push(line);
    });
    return true;
  }

  #startOne(read: ReturnType<typeof readRequest>, answer: (line: string | undefined) => void) {
    if (read.kind === "invalid") answer(answerLine(read.id, { error: invalidRequest() }));
    else this.#engine.start(read.request, answer);
  }

  /** Answers with one array, members in the order of completion, once all of them are done. */
  #startBatch(members: readonly JsonValue[]): void {
    if (members.length === 0 || !this.#engine.release.batches) {
      const line = answerLine("null", { error: invalidRequest() });
      if (line !== undefined) this.#push(line);
      return;
    }
    const lines: string[] = [];
    let remaining = members.length;
    this.#pending += 1;
    for (const member of members) {
      this.#startOne(readRequest(member), (line) => {
        remaining -= 1;
        if (line !== undefined) lines.push(line);
        if (remaining > 0) return;
        this.#pending -= 1;
        if (lines.length > 0) this.#push(`[${lines.join(",")}]`);
      });
    }
  }

  #push(line: string): void {
    if (line.length < MAX_ANSWER_BYTES / 4 || Buffer.byteLength(line) < MAX_ANSWER_BYTES) {
      this.#ready.push(`${line}\n`);
    } else {
      this.#ready.push(Buffer.from(line).subarray(0, MAX_ANSWER_BYTES).toString("utf8"));
    }
  }

  /** Closes without an answer. Unsent answers are lost; the effects of their requests stay. */
  #drop(): void {
    this.#unread = "";
    this.#waiting = 0;
    this.#ready = [];
    this.#socket.destroy();
  }
}

function isArray(value: JsonValue): value is readonly JsonValue[] {
  return Array.isArray(value);
}
