// A reader of StreamIostat over the wire.
import { credentials, type ClientReadableStream } from "@grpc/grpc-js";
import type { Iostat } from "../../src/gen/storagenode/v1/node.ts";
import {
  StorageNodeClient,
  type StreamIostatRequest,
  type StreamIostatResponse,
} from "../../src/gen/storagenode/v1/storage_node.ts";
import { until, type TestAgent } from "./agent.ts";

export type Frame = StreamIostatResponse;

/** 100 ms. */
const OFTEN = { seconds: 0n, nanos: 100_000_000 };

export class IostatStream implements Disposable {
  /** What was received and not looked at yet, oldest first. */
  readonly frames: Frame[] = [];
  readonly #client: StorageNodeClient;
  readonly #call: ClientReadableStream<Frame>;
  readonly ended: Promise<{ readonly code: number; readonly details: string }>;

  /** Has a connection of its own. */
  constructor({ address }: Pick<TestAgent, "address">, request: Partial<StreamIostatRequest> = {}) {
    this.#client = new StorageNodeClient(address, credentials.createInsecure());
    const unset = { lvolIds: [], diskIds: [], interval: OFTEN, includeDisks: false };
    this.#call = this.#client.streamIostat({ ...unset, ...request });
    this.#call.on("error", () => {});
    this.ended = new Promise((resolve) => {
      this.#call.on("status", ({ code, details }) => resolve({ code, details }));
    });
    this.#call.on("data", (frame: Frame) => this.frames.push(frame));
  }

  /** Reads nothing any more until `resume`: some frames wait in the client and on the connection. */
  pause(): void {
    this.#call.pause();
  }

  resume(): void {
    this.#call.resume();
  }

  /** The next frame for which `test` holds; those before it are dropped. */
  async next(what: string, test: (frame: Frame) => boolean = () => true): Promise<Frame> {
    let found: Frame | undefined;
    await until(`a frame: ${what}`, () => {
      while (found === undefined && this.frames.length > 0) {
        const frame = this.frames.shift();
        if (frame !== undefined && test(frame)) found = frame;
      }
      return found !== undefined;
    });
    if (found === undefined) throw new Error(what);
    return found;
  }

  cancel(): void {
    this.#call.cancel();
  }

  [Symbol.dispose](): void {
    this.#call.cancel();
    this.#client.close();
  }
}

export function entryOf({ iostats }: Frame, lvolId: string): Iostat | undefined {
  return iostats.find((one) => one.lvolId === lvolId);
}
