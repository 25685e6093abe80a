// A reader of StreamIostat that checks what every reader may rely on, whatever happens meanwhile:
// counters only rise, except where an answer says that they began anew.
import type { Iostat } from "../../src/gen/storagenode/v1/node.ts";
import type { TestAgent } from "./agent.ts";
import { IostatStream, type Frame } from "./iostat-stream.ts";

export class CounterReader implements Disposable {
  readonly #stream: IostatStream;
  readonly #last = new Map<string, Iostat>();
  #time = 0;

  constructor(agent: Pick<TestAgent, "address">) {
    this.#stream = new IostatStream(agent, { includeDisks: true });
  }

  /** What the answers since the last call should not have said. */
  harm(): readonly string[] {
    return this.#stream.frames.splice(0).flatMap((frame) => this.#harmOf(frame));
  }

  #harmOf({ time, iostats }: Frame): readonly string[] {
    const now = time?.getTime() ?? 0;
    const harm = now < this.#time ? [`the sample of ${now} after that of ${this.#time}`] : [];
    this.#time = now;
    for (const one of iostats) {
      const key = one.lvolId === "" ? one.diskId : one.lvolId;
      const before = this.#last.get(key);
      this.#last.set(key, one);
      if (before === undefined || one.reset || !isLower(one, before)) continue;
      harm.push(`${key} counts less than before, without a mark`);
    }
    const keys = new Set(iostats.map(({ lvolId, diskId }) => `${lvolId} ${diskId}`));
    return keys.size === iostats.length ? harm : [...harm, "a volume or disk twice in one answer"];
  }

  [Symbol.dispose](): void {
    this.#stream[Symbol.dispose]();
  }
}

function isLower(now: Iostat, before: Iostat): boolean {
  return (
    now.bytesRead < before.bytesRead ||
    now.numReadOps < before.numReadOps ||
    now.bytesWritten < before.bytesWritten ||
    now.numWriteOps < before.numWriteOps
  );
}
