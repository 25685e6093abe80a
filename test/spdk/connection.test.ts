import { describe, expect, test } from "vitest";
import { SPDK_REQUEST_BYTES, STORE_WINDOW } from "../../src/limits.ts";
import { SpdkConnection } from "../../src/spdk/connection.ts";
import { MAX_ANSWER_BYTES } from "../../src/spdk/lines.ts";
import type { CallEnd, CallStart } from "../../src/spdk/observer.ts";
import type { Call } from "../../src/spdk/outcome.ts";
import { ScriptedTarget, type Script } from "../support/scripted-target.ts";

const PATIENT = { waitMs: 30_000 };
const echo: Script = ({ params }) => ({ result: params ?? null });
const DOWN = { kind: "not_sent", reason: "down" };
const UNKNOWN = { kind: "unknown", reason: "disconnected" };

async function connected(target: ScriptedTarget, options: Partial<Options> = {}) {
  const connection = new SpdkConnection({ path: target.path, mayMutate: () => true, ...options });
  await expect.poll(() => connection.connected).toBe(true);
  return connection;
}

type Options = ConstructorParameters<typeof SpdkConnection>[0];

/** Waits until the target has received `count` requests, and returns their ids. */
async function arrived(target: ScriptedTarget, count: number): Promise<readonly number[]> {
  await expect.poll(() => target.requests.length).toBe(count);
  return target.requests.map(({ id }) => id);
}

describe("answers", () => {
  test("answers in another order reach the callers of their requests", async () => {
    await using target = await ScriptedTarget.listening();
    await using connection = await connected(target);
    const calls = ["a", "b", "c"].map((method) => connection.call(method, undefined, PATIENT));
    const ids = await arrived(target, 3);
    for (const id of ids.toReversed()) target.answer(id, { result: `for ${id}` });
    const outcomes = await Promise.all(calls.map(({ outcome }) => outcome));
    expect(outcomes).toEqual(ids.map((id) => ({ kind: "ok", result: `for ${id}` })));
  });

  test("an error is a result with code and trimmed text, not an exception", async () => {
    await using target = await ScriptedTarget.listening(() => ({
      error: { code: -32603, message: "subsystem busy, retry later.\n" },
    }));
    await using connection = await connected(target);
    const { outcome } = connection.call("nvmf_subsystem_add_ns", {}, PATIENT);
    expect(await outcome).toEqual({
      kind: "error",
      code: -32603,
      message: "subsystem busy, retry later.",
    });
  });

  test("an answer in many chunks, some of which split a character, is decoded correctly", async () => {
    await using target = await ScriptedTarget.listening();
    await using connection = await connected(target);
    const result = Array.from({ length: 20_000 }, (_, n) => `lvol é ${n}`);
    const { outcome } = connection.call("bdev_get_bdevs", undefined, PATIENT);
    const [id] = await arrived(target, 1);
    const bytes = Buffer.from(`${JSON.stringify({ id, result })}\n`);
    for (let at = 0; at < bytes.length; at += 7_919) target.send(bytes.subarray(at, at + 7_919));
    expect(await outcome).toEqual({ kind: "ok", result });
  });

  test("integers beyond 2^53 are exact", async () => {
    await using target = await ScriptedTarget.listening();
    await using connection = await connected(target);
    const { outcome } = connection.call("bdev_get_iostat", undefined, PATIENT);
    const [id] = await arrived(target, 1);
    target.send(`{"id":${id},"result":{"ticks":18446744073709551343,"bytes":512}}\n`);
    expect(await outcome).toEqual({
      kind: "ok",
      result: { ticks: 18446744073709551343n, bytes: 512 },
    });
  });
});

describe("requests", () => {
  test("concurrent requests arrive in the order of their calls", async () => {
    await using target = await ScriptedTarget.listening(echo);
    await using connection = await connected(target);
    const numbers = Array.from({ length: 300 }, (_, n) => n);
    const outcomes = await Promise.all(
      numbers.map(async (n) => await connection.call("echo", { n }, PATIENT).outcome),
    );
    expect(outcomes).toEqual(numbers.map((n) => ({ kind: "ok", result: { n } })));
    expect(target.requests.map(({ params }) => params?.["n"])).toEqual(numbers);
  });

  test("calls made a few microtasks later share one socket write", async () => {
    await using target = await ScriptedTarget.listening(echo);
    let writes = 0;
    let writing = false;
    const mayMutate = (): boolean => {
      if (!writing) writes += 1;
      writing = true;
      queueMicrotask(() => (writing = false));
      return true;
    };
    await using connection = await connected(target, { mayMutate });
    const late = async (promises: number): Promise<unknown> => {
      for (let n = 0; n < promises; n += 1) await Promise.resolve();
      return await connection.call("echo", undefined, { ...PATIENT, mutates: true }).outcome;
    };
    await Promise.all([0, 1, 2, 5, 10].map(late));
    expect(target.requests.length).toBe(5);
    expect(writes).toBe(1);
  });

  test("empty params are omitted, because SPDK treats {} unlike no params", async () => {
    await using target = await ScriptedTarget.listening(() => ({ result: true }));
    await using connection = await connected(target);
    await connection.call("spdk_get_version", { id: undefined }, PATIENT).outcome;
    expect(target.requests).toEqual([{ jsonrpc: "2.0", id: 1, method: "spdk_get_version" }]);
  });

  test("a request longer than older releases accept is refused before it is sent", async () => {
    await using target = await ScriptedTarget.listening(echo);
    await using connection = await connected(target);
    const names = "x".repeat(SPDK_REQUEST_BYTES);
    expect(() => connection.call("bdev_get_iostat", { names }, PATIENT)).toThrow(RangeError);
    await connection.call("echo", undefined, PATIENT).outcome;
    expect(target.requests.map(({ method }) => method)).toEqual(["echo"]);
  });

  test("changes are not written while the target does not read, so the fence still stops them", async () => {
    await using target = await ScriptedTarget.listening(() => ({ result: true }));
    let held = true;
    await using connection = await connected(target, { mayMutate: () => held });
    await connection.call("first", undefined, PATIENT).outcome;
    target.pause();
    const text = "x".repeat(20_000);
    const calls: Call[] = [];
    for (let n = 0; n < 300; n += 1) {
      calls.push(connection.call("bdev_lvol_create", { text }, { ...PATIENT, mutates: true }));
      if (n % 5 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    await new Promise((resolve) => setImmediate(resolve));
    const last = calls.at(-1);
    held = false;
    target.resume();
    expect(await last?.outcome).toEqual({ kind: "not_sent", reason: "fenced" });
    const outcomes = await Promise.all(calls.map(({ outcome }) => outcome));
    const done = outcomes.filter(({ kind }) => kind === "ok").length;
    expect(done).toBeGreaterThan(0);
    expect(outcomes.length - done).toBeGreaterThan(0);
    expect(target.requests.length).toBe(done + 1);
  });

  test("a fenced change never reaches the target, reads do", async () => {
    await using target = await ScriptedTarget.listening(echo);
    await using connection = await connected(target, { mayMutate: () => false });
    const change = connection.call("bdev_lvol_delete", {}, { ...PATIENT, mutates: true });
    const read = connection.call("spdk_get_version", undefined, PATIENT);
    expect(await change.outcome).toEqual({ kind: "not_sent", reason: "fenced" });
    expect(await change.settled).toEqual({ kind: "not_sent", reason: "fenced" });
    expect(await read.outcome).toMatchObject({ kind: "ok" });
    expect(target.requests.map(({ method }) => method)).toEqual(["spdk_get_version"]);
  });
});

describe("waits", () => {
  test("a timeout is an unknown outcome, and the late answer settles it", async () => {
    await using target = await ScriptedTarget.listening();
    await using connection = await connected(target);
    const call = connection.call("bdev_lvol_delete", { name: "v" }, { waitMs: 100 });
    const [id = 0] = await arrived(target, 1);
    expect(await call.outcome).toEqual({ kind: "unknown", reason: "timeout" });
    target.answer(id, { result: true });
    expect(await call.settled).toEqual({ kind: "ok", result: true });
  });

  test("an abort ends the wait and not the request", async () => {
    await using target = await ScriptedTarget.listening();
    await using connection = await connected(target);
    const abort = new AbortController();
    const call = connection.call("resize", {}, { ...PATIENT, signal: abort.signal });
    const [id = 0] = await arrived(target, 1);
    abort.abort();
    expect(await call.outcome).toEqual({ kind: "unknown", reason: "aborted" });
    target.answer(id, { error: { code: -19, message: "No such device" } });
    expect(await call.settled).toMatchObject({ kind: "error", code: -19 });
  });

  test("a request aborted before it is written is never sent", async () => {
    await using target = await ScriptedTarget.listening(echo);
    await using connection = await connected(target);
    const abort = new AbortController();
    const call = connection.call("delete", undefined, { ...PATIENT, signal: abort.signal });
    abort.abort();
    const late = connection.call("delete", undefined, { ...PATIENT, signal: abort.signal });
    expect(await call.outcome).toEqual({ kind: "not_sent", reason: "aborted" });
    expect(await late.settled).toEqual({ kind: "not_sent", reason: "aborted" });
    await connection.call("read", undefined, PATIENT).outcome;
    expect(target.requests.map(({ method }) => method)).toEqual(["read"]);
  });
});

describe("the window of an lvstore", () => {
  const inStore = { ...PATIENT, store: "s1" };

  test("is never exceeded, keeps the order, and does not delay other lvstores", async () => {
    await using target = await ScriptedTarget.listening();
    await using connection = await connected(target);
    const numbers = Array.from({ length: STORE_WINDOW + 50 }, (_, n) => n);
    const calls = numbers.map((n) => connection.call("create", { n }, inStore));
    const other = connection.call("other", undefined, { ...PATIENT, store: "s2" });
    const ids = await arrived(target, STORE_WINDOW + 1);
    expect(target.requests.at(-1)?.method).toBe("other");
    target.answer(ids.at(-1) ?? 0, { result: true });
    expect(await other.outcome).toEqual({ kind: "ok", result: true });
    expect(target.requests.length).toBe(STORE_WINDOW + 1);
    target.script = echo;
    for (const id of ids.slice(0, -1)) target.answer(id, { result: null });
    await Promise.all(calls.map(({ outcome }) => outcome));
    const observed = target.requests.filter(({ method }) => method === "create");
    expect(observed.map(({ params }) => params?.["n"])).toEqual(numbers);
  });

  test("has its full size again after all requests are answered", async () => {
    await using target = await ScriptedTarget.listening(echo);
    await using connection = await connected(target);
    const burst = (count: number): Call[] =>
      Array.from({ length: count }, () => connection.call("create", undefined, inStore));
    await Promise.all(burst(2 * STORE_WINDOW).map(({ outcome }) => outcome));
    target.script = () => undefined;
    burst(STORE_WINDOW);
    expect(await arrived(target, 3 * STORE_WINDOW)).toHaveLength(3 * STORE_WINDOW);
  });

  test("a request whose caller gave up counts as in flight until its answer arrives", async () => {
    await using target = await ScriptedTarget.listening();
    await using connection = await connected(target);
    const abort = new AbortController();
    const given = { ...inStore, signal: abort.signal };
    const full = Array.from({ length: STORE_WINDOW }, () =>
      connection.call("slow", undefined, given),
    );
    const ids = await arrived(target, STORE_WINDOW);
    full.push(connection.call("given up", undefined, given));
    const next = connection.call("next", undefined, inStore);
    abort.abort();
    const outcomes = await Promise.all(full.map(({ outcome }) => outcome));
    expect(outcomes.map(({ kind }) => kind)).toEqual([...ids.map(() => "unknown"), "not_sent"]);
    target.script = echo;
    await connection.call("read", undefined, PATIENT).outcome;
    expect(target.requests.slice(STORE_WINDOW).map(({ method }) => method)).toEqual(["read"]);
    target.answer(ids[0] ?? 0, { result: true });
    expect(await next.outcome).toMatchObject({ kind: "ok" });
    expect(target.requests.at(-1)?.method).toBe("next");
  });
});

describe("a lost connection", () => {
  test("sent requests end as unknown, queued ones as not sent", async () => {
    await using target = await ScriptedTarget.listening();
    await using connection = await connected(target);
    const store = { ...PATIENT, store: "s" };
    const calls = Array.from({ length: STORE_WINDOW + 3 }, () =>
      connection.call("create", undefined, store),
    );
    await arrived(target, STORE_WINDOW);
    target.hangUp();
    const outcomes = await Promise.all(calls.map(({ settled }) => settled));
    expect(outcomes.slice(0, STORE_WINDOW)).toEqual(
      Array.from({ length: STORE_WINDOW }, () => UNKNOWN),
    );
    expect(outcomes.slice(STORE_WINDOW)).toEqual(Array.from({ length: 3 }, () => DOWN));
  });

  test("nothing is sent while disconnected, and the connection is made again", async () => {
    await using target = await ScriptedTarget.create(echo);
    await using connection = new SpdkConnection({ path: target.path, mayMutate: () => true });
    const observed: string[] = [];
    connection.onConnected(() => observed.push(`up ${connection.connectionNumber}`));
    connection.onDisconnected(() => observed.push("down"));
    const before = connection.call("create", undefined, PATIENT);
    expect(await before.settled).toEqual(DOWN);
    await target.listen();
    await expect.poll(() => connection.connected).toBe(true);
    await target.stop();
    await expect.poll(() => connection.connected).toBe(false);
    await target.listen();
    await expect.poll(() => connection.connected).toBe(true);
    expect(await connection.call("echo", undefined, PATIENT).outcome).toMatchObject({ kind: "ok" });
    expect(observed).toEqual(["up 1", "down", "up 2"]);
    expect(target.requests.map(({ method }) => method)).toEqual(["echo"]);
  });

  test("dispose ends sent requests with outcome unknown and does not reconnect", async () => {
    await using target = await ScriptedTarget.listening();
    const connection = await connected(target);
    const call = connection.call("create", undefined, PATIENT);
    await arrived(target, 1);
    await connection[Symbol.asyncDispose]();
    expect(await call.outcome).toEqual(UNKNOWN);
    const after = connection.call("create", undefined, PATIENT);
    expect(await after.outcome).toEqual(DOWN);
    expect(target.connections).toBe(1);
  });
});

describe("an invalid answer closes the connection", () => {
  const broken: readonly (readonly [string, (id: number) => string | Buffer])[] = [
    ["malformed JSON", () => "{]\n"],
    ["two answers on one line", (id) => `{"id":${id},"result":1}{"id":${id + 1},"result":2}\n`],
    [
      "an answer without a request id",
      () => '{"id":null,"error":{"code":-32600,"message":"Invalid"}}\n',
    ],
    ["neither result nor error", (id) => `{"id":${id}}\n`],
    ["an error without a code", (id) => `{"id":${id},"error":{"message":"no"}}\n`],
    ["no object", () => "[]\n"],
    ["an answer cut at 32 MiB", () => Buffer.alloc(MAX_ANSWER_BYTES, "x")],
  ];

  test.each(broken)("%s", async (name, bytes) => {
    const reason = name.includes("32 MiB") ? "too_long" : "disconnected";
    await using target = await ScriptedTarget.listening();
    await using connection = await connected(target);
    const calls = [1, 2].map(() => connection.call("bdev_get_bdevs", undefined, PATIENT));
    const [id = 0] = await arrived(target, 2);
    target.send(bytes(id));
    const outcomes = await Promise.all(calls.map(({ settled }) => settled));
    expect(outcomes).toEqual([
      { kind: "unknown", reason },
      { kind: "unknown", reason },
    ]);
    await expect.poll(() => connection.connectionNumber).toBe(2);
    target.script = echo;
    expect(await connection.call("echo", undefined, PATIENT).outcome).toMatchObject({ kind: "ok" });
  });
});

test("the observer sees each call once, with its outcome", async () => {
  await using target = await ScriptedTarget.listening(echo);
  const observed: [CallStart, CallEnd["outcome"]["kind"]][] = [];
  await using connection = await connected(target, {
    onCall: (start) => (end) => observed.push([start, end.outcome.kind]),
    mayMutate: () => false,
  });
  await connection.call("bdev_get_bdevs", undefined, { ...PATIENT, dump: true }).outcome;
  await connection.call("bdev_lvol_delete", { name: "v" }, { ...PATIENT, mutates: true }).outcome;
  expect(observed).toMatchObject([
    [{ method: "bdev_get_bdevs", dump: true, mutates: false, queued: 0 }, "ok"],
    [{ method: "bdev_lvol_delete", dump: false, mutates: true, queued: 0 }, "not_sent"],
  ]);
});
