import { existsSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { parseExactJson } from "../../src/spdk/exact-json.ts";
import { LineReader } from "../../src/spdk/lines.ts";
import { reconnectDelayMs } from "../../src/spdk/reconnect.ts";
import { SocketWatch } from "../../src/spdk/socket-watch.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

describe("lines", () => {
  test("are complete however the stream is split into chunks", () => {
    const line = fc.string({ unit: "grapheme" }).map((text) => text.replaceAll("\n", " "));
    fc.assert(
      fc.property(fc.array(line), fc.array(fc.nat(), { maxLength: 20 }), (lines, cuts) => {
        const bytes = Buffer.from(lines.map((text) => `${text}\n`).join(""));
        const edges = cuts.map((cut) => cut % (bytes.length + 1)).toSorted((a, b) => a - b);
        const reader = new LineReader(1_000_000);
        const read = [0, ...edges].flatMap((from, n) => [
          ...reader.push(bytes.subarray(from, edges[n] ?? bytes.length)),
        ]);
        expect(read).toEqual(lines);
      }),
    );
  });

  test("an answer of the maximum length passes, a truncated one throws", () => {
    const reader = new LineReader(10);
    expect([...reader.push(Buffer.from("123456789\n"))]).toEqual(["123456789"]);
    expect([...reader.push(Buffer.from("12345"))]).toEqual([]);
    expect(() => [...reader.push(Buffer.from("67890"))]).toThrow("32 MiB");
  });
});

describe("exact JSON", () => {
  test("any 64-bit integer is exact anywhere in a value", () => {
    const integer = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 64n - 1n });
    fc.assert(
      fc.property(integer, fc.string(), (value, text) => {
        const source = `{"a": ${value},"b":[${value},"${value}"],"c":${JSON.stringify(text)}}`;
        const exact =
          value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER
            ? Number(value)
            : value;
        const parsed = parseExactJson(source);
        expect(parsed).toEqual({ a: exact, b: [exact, String(value)], c: text });
      }),
    );
  });

  test("the first integer that a number cannot hold is exact", () => {
    expect(parseExactJson("[9007199254740993,-9007199254740993,9007199254740991]")).toEqual([
      9007199254740993n,
      -9007199254740993n,
      9007199254740991,
    ]);
  });

  test("other long numbers stay numbers", () => {
    expect(parseExactJson("[1234567890123456.5,12345678901234567e3]")).toEqual([
      1234567890123456.5, 12345678901234567e3,
    ]);
  });
});

describe("the delay before the next attempt to connect", () => {
  test("is 50 ms for 10 s, then grows to at most 5 s", () => {
    expect([0, 9_999].map(longest)).toEqual([50, 50]);
    expect([10_000, 10_400, 12_000, 15_000, 1e9].map(longest)).toEqual([
      100, 400, 2_000, 5_000, 5_000,
    ]);
    expect(reconnectDelayMs(1e9, { random: () => 0 })).toBe(2_500);
  });

  test("is 5 ms in the first 500 ms of a new socket file, however long the target was away", () => {
    expect(reconnectDelayMs(1e9, { socketAgeMs: 1 })).toBe(5);
    expect(reconnectDelayMs(0, { socketAgeMs: 500 })).toBe(50);
  });
});

describe("SocketWatch", () => {
  test("reports the creation of its socket, not of others in the folder", async () => {
    await using folder = await temporaryFolder();
    const path = join(folder.path, "spdk.sock");
    const { promise: appeared, resolve } = Promise.withResolvers<boolean>();
    let neighbours = 0;
    using stack = new DisposableStack();
    stack.use(new SocketWatch(path, () => resolve(existsSync(path))));
    stack.use(new SocketWatch(join(folder.path, "another"), () => (neighbours += 1)));
    const server = createServer().listen(path);
    expect(await appeared).toBe(true);
    expect(neighbours).toBe(0);
    server.close();
  });

  test("follows a folder that is removed and created again, as service managers do", async () => {
    await using folder = await temporaryFolder();
    const run = join(folder.path, "run");
    await mkdir(run);
    const { promise: appeared, resolve } = Promise.withResolvers<void>();
    using stack = new DisposableStack();
    const watch = stack.use(new SocketWatch(join(run, "spdk.sock"), resolve));
    await rm(run, { recursive: true });
    watch.renew();
    await mkdir(run);
    watch.renew();
    const server = createServer().listen(join(run, "spdk.sock"));
    await expect(appeared).resolves.toBeUndefined();
    server.close();
  });

  test("does not throw if the folder does not exist", () => {
    expect(() => new SocketWatch("/nowhere/at/all/spdk.sock", () => {})).not.toThrow();
  });
});

function longest(lostForMs: number): number {
  return reconnectDelayMs(lostForMs, { random: () => 1 });
}
