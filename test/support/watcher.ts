// A client of Watch: the messages that it was sent, and the objects as it knows them from these alone.
import type { ClientReadableStream } from "@grpc/grpc-js";
import type { WatchResponse } from "../../src/gen/storagenode/v1/storage_node.ts";
import { refusal, until, type Refused, type TestAgent } from "./agent.ts";

export type WatchOptions = {
  readonly fromRevision?: bigint;
  readonly bookmarkMs?: number;
  /** What it knows already, if it resumes. */
  readonly knows?: Knowledge;
};

/** State by id of the object; deleted objects are left out. */
export class Knowledge {
  readonly states: Map<string, string>;
  /** From which it can resume. */
  revision: bigint;

  constructor(states: ReadonlyMap<string, string> = new Map(), revision = 0n) {
    this.states = new Map(states);
    this.revision = revision;
  }

  copy(): Knowledge {
    return new Knowledge(this.states, this.revision);
  }

  learn({ change, revision }: WatchResponse): void {
    if (revision > 0n) this.revision = revision;
    if (change?.$case === "synced" || change?.$case === "bookmark" || change === undefined) return;
    const { meta, status } = change.value;
    const id = meta?.id ?? "";
    if (meta?.deleteTime === undefined) this.states.set(id, status?.state ?? "");
    else this.states.delete(id);
  }
}

export class Watcher implements Disposable {
  readonly messages: WatchResponse[] = [];
  readonly knows: Knowledge;
  /** How the server ended the stream. */
  readonly ended: Promise<Refused>;
  readonly #stream: ClientReadableStream<WatchResponse>;

  constructor({ client }: Pick<TestAgent, "client">, options: WatchOptions = {}) {
    const { fromRevision = 0n, bookmarkMs, knows = new Knowledge() } = options;
    this.knows = knows;
    const bookmarkInterval =
      bookmarkMs === undefined
        ? undefined
        : {
            seconds: BigInt(Math.trunc(bookmarkMs / 1_000)),
            nanos: Math.round((bookmarkMs % 1_000) * 1e6),
          };
    this.#stream = client.watch({ fromRevision, bookmarkInterval });
    this.#stream.on("data", (message: WatchResponse) => {
      this.messages.push(message);
      this.knows.learn(message);
    });
    this.ended = refusal(
      new Promise((resolve, reject) => {
        this.#stream.on("error", reject);
        this.#stream.on("end", resolve);
      }),
    );
    this.ended.catch(() => {});
  }

  /** What the message says: the id of its object, or what it is. */
  get subjects(): readonly string[] {
    return this.messages.map(({ change }) =>
      change?.$case === "lvol" || change?.$case === "disk" || change?.$case === "snapshot"
        ? (change.value.meta?.id ?? "")
        : (change?.$case ?? ""),
    );
  }

  get isSynced(): boolean {
    return this.messages.some(({ change }) => change?.$case === "synced");
  }

  async synced(): Promise<void> {
    await Promise.race([until("the watcher is synced", () => this.isSynced), this.#failed()]);
  }

  /** Throws if the stream ends before test holds. */
  async until(what: string, test: () => boolean): Promise<void> {
    await Promise.race([until(what, test), this.#failed()]);
  }

  async #failed(): Promise<never> {
    const { reason, message } = await this.ended;
    throw new Error(`the stream has ended: ${reason} ${message}`);
  }

  pause(): void {
    this.#stream.pause();
  }

  resume(): void {
    this.#stream.resume();
  }

  [Symbol.dispose](): void {
    this.#stream.cancel();
  }
}
