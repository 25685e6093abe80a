// How often answers that many callers share are encoded, and that each caller gets its own part.
import { describe, expect, it } from "vitest";
import { iostatsEncodedOnce } from "../../src/api/encoded-once.ts";
import type { Iostat } from "../../src/gen/storagenode/v1/node.ts";
import { StorageNodeService } from "../../src/gen/storagenode/v1/storage_node.ts";

const { streamIostat } = StorageNodeService;

const entry: Iostat = {
  lvolId: "v",
  diskId: "d",
  bytesRead: 2n ** 64n - 1n,
  numReadOps: 1n,
  readLatency: { seconds: 1n, nanos: 2 },
  bytesWritten: 0n,
  numWriteOps: 0n,
  writeLatency: { seconds: 0n, nanos: 0 },
  reset: false,
};

/** The method, and the lists of counters that were encoded. */
function counted() {
  const encoded: number[] = [];
  const method = iostatsEncodedOnce({
    ...streamIostat,
    responseSerialize: (answer) => {
      if (answer.iostats.length > 0) encoded.push(answer.iostats.length);
      return streamIostat.responseSerialize(answer);
    },
  });
  return { encoded, method };
}

describe("an answer of StreamIostat", () => {
  it("is encoded once for all readers of a frame, with what each of them missed", () => {
    const { encoded, method } = counted();
    const [time, iostats] = [new Date(1_000), [entry, entry]];
    const sent = [0n, 0n, 3n, 2n ** 40n].map((dropped) =>
      method.responseDeserialize(method.responseSerialize({ time, iostats, dropped })),
    );
    expect(encoded).toEqual([2]);
    expect(sent.map(({ dropped }) => dropped)).toEqual([0n, 0n, 3n, 2n ** 40n]);
    for (const one of sent) expect(one).toMatchObject({ time, iostats });
  });

  it("of another frame is encoded anew, also if it says the same", () => {
    const { encoded, method } = counted();
    const answer = { time: new Date(1_000), dropped: 0n };
    method.responseSerialize({ ...answer, iostats: [entry] });
    method.responseSerialize({ ...answer, iostats: [entry] });
    expect(encoded).toEqual([1, 1]);
  });
});
