// I/O counters of a bdev since it was registered, as bdev_get_iostat shows them
// (docs/spdk-contract.md#iostat). Failed I/O and written zeros are not counted.
import { TICK_RATE } from "./process-identity.ts";

/** Time of one I/O and of each of its bytes, in seconds: a disk with 80 us and 2 GB/s. */
const SECONDS_PER_IO = 80e-6;
const SECONDS_PER_BYTE = 0.5e-9;

const KINDS = ["read", "write", "unmap", "copy"] as const;
export type CountedKind = (typeof KINDS)[number];

const BYTES = {
  read: "bytes_read",
  write: "bytes_written",
  unmap: "bytes_unmapped",
  copy: "bytes_copied",
} as const satisfies Record<CountedKind, string>;

type Counter = { bytes: number; operations: number; ticks: number; max: number; min: number };

export class IoCounters {
  #counters = zeros();

  count(kind: CountedKind, bytes: number): void {
    const counter = this.#counters[kind];
    const ticks = Math.round(TICK_RATE * (SECONDS_PER_IO + bytes * SECONDS_PER_BYTE));
    counter.bytes += bytes;
    counter.operations += 1;
    counter.ticks += ticks;
    counter.max = Math.max(counter.max, ticks);
    counter.min = counter.min === 0 ? ticks : Math.min(counter.min, ticks);
  }

  /** The fields of a bdev's entry in the order of SPDK. */
  json(): object {
    const of = (entries: (kind: CountedKind) => readonly (readonly [string, number])[]) =>
      Object.fromEntries(KINDS.flatMap(entries));
    return {
      ...of((kind) => [
        [BYTES[kind], this.#counters[kind].bytes],
        [`num_${kind}_ops`, this.#counters[kind].operations],
      ]),
      ...of((kind) => [
        [`${kind}_latency_ticks`, this.#counters[kind].ticks],
        [`max_${kind}_latency_ticks`, this.#counters[kind].max],
        [`min_${kind}_latency_ticks`, this.#counters[kind].min],
      ]),
      io_error: {},
    };
  }

  /** What `reset_mode` does, for every client of the target. */
  reset(mode: "all" | "maxmin" | "error" | "none"): void {
    if (mode === "all") this.#counters = zeros();
    if (mode !== "maxmin") return;
    for (const kind of KINDS) Object.assign(this.#counters[kind], { max: 0, min: 0 });
  }
}

function zeros(): Record<CountedKind, Counter> {
  const zero = () => ({ bytes: 0, operations: 0, ticks: 0, max: 0, min: 0 });
  return { read: zero(), write: zero(), unmap: zero(), copy: zero() };
}
