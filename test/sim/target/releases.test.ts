// Behaviour of the simulator per SPDK release, where docs/spdk-contract.md#release-differences
// measured a difference: each case lists the answers of 24.01, 25.05 and 26.09.
import { once } from "node:events";
import { connect } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { z } from "zod";
import type { ReleaseName } from "../../../src/sim/target/release.ts";
import { simulator, type Simulator } from "./simulator.ts";

const RELEASES = ["24.01", "25.05", "26.09"] as const satisfies readonly ReleaseName[];

const reply = z.object({
  result: z.unknown().optional(),
  error: z.object({ code: z.number(), message: z.string() }).optional(),
});
type Reply = z.infer<typeof reply>;
type Call = readonly [method: string, params?: object];

const NQN = "nqn.2026-11.io.test:a";
const LISTENER = { trtype: "TCP", adrfam: "IPv4", traddr: "127.0.0.1", trsvcid: "4777" };
const HOST = "nqn.2014-08.org.x:host";

/** Sends all requests in one write. Returns the replies by id; missing if the connection closed. */
async function ask({ socketPath }: Simulator, ...calls: readonly Call[]): Promise<Reply[]> {
  const socket = connect(socketPath);
  await once(socket, "connect");
  const lines = calls.map(([method, params], id) =>
    JSON.stringify({ jsonrpc: "2.0", id, method, params }),
  );
  socket.write(lines.join("\n"));
  const replies = new Map<number, Reply>();
  let unread = "";
  for await (const chunk of socket.setEncoding("utf8")) {
    unread += String(chunk);
    const complete = unread.split("\n");
    unread = complete.pop() ?? "";
    for (const line of complete) {
      const value: unknown = JSON.parse(line);
      replies.set(z.object({ id: z.number() }).parse(value).id, reply.parse(value));
    }
    if (replies.size === calls.length) break;
  }
  socket.destroy();
  return calls.flatMap((_call, id) => replies.get(id) ?? []);
}

async function on<T>(release: ReleaseName, act: (sim: Simulator) => Promise<T>): Promise<T> {
  await using sim = await simulator({ args: ["--release", release] });
  return await act(sim);
}

const stack = new AsyncDisposableStack();
let simulators: readonly (readonly [ReleaseName, Simulator])[] = [];

beforeAll(async () => {
  const started = RELEASES.map(async (release) => {
    const sim = stack.use(await simulator({ args: ["--release", release] }));
    await ask(sim, transport);
    return [release, sim] as const;
  });
  simulators = await Promise.all(started);
});

afterAll(async () => {
  await stack.disposeAsync();
});

/**
 * Makes the calls one after another on each release. Returns the reply to the last, per release.
 */
async function onEach(...calls: readonly Call[]): Promise<Record<string, Reply | undefined>> {
  const entries = simulators.map(async ([release, sim]) => {
    let last: Reply | undefined;
    for (const call of calls) [last] = await ask(sim, call);
    await ask(sim, ["nvmf_delete_subsystem", { nqn: NQN }]);
    return [release, last] as const;
  });
  return Object.fromEntries(await Promise.all(entries));
}

const error = (code: number, message: string) => ({ error: { code, message } });
const subsystem: Call = ["nvmf_create_subsystem", { nqn: NQN, serial_number: "S" }];
const transport: Call = ["nvmf_create_transport", { trtype: "TCP" }];
const listener: Call = ["nvmf_subsystem_add_listener", { nqn: NQN, listen_address: LISTENER }];
const host: Call = ["nvmf_subsystem_add_host", { nqn: NQN, host: HOST }];

describe("each release", () => {
  it("reports its version", async () => {
    expect(await onEach(["spdk_get_version"])).toMatchObject({
      "24.01": { result: { fields: { major: 24, minor: 1, patch: 0, suffix: "" } } },
      "25.05": { result: { fields: { major: 25, minor: 5, patch: 1, suffix: "" } } },
      "26.09": { result: { fields: { major: 26, minor: 9, patch: 0, suffix: "-pre" } } },
    });
  });

  it("lists its notification types", async () => {
    const types = await onEach(["notify_get_types"]);
    expect(types["24.01"]?.result).toEqual(["bdev_register", "bdev_unregister"]);
    expect(types["25.05"]?.result).not.toContain("bdev_resize");
    expect(types["26.09"]?.result).toContain("bdev_resize");
  });

  it.each<[string, readonly Call[], readonly object[]]>([
    [
      "reading a subsystem that does not exist",
      [["nvmf_get_subsystems", { nqn: NQN }]],
      [
        error(-19, "No such device"),
        error(-19, "No such device"),
        error(-32602, `Subsystem with NQN '${NQN}' not found`),
      ],
    ],
    [
      "deleting a subsystem that does not exist",
      [["nvmf_delete_subsystem", { nqn: NQN }]],
      [
        error(-32602, "Invalid parameters"),
        error(-32602, "Invalid parameters"),
        error(-32602, `Subsystem with NQN '${NQN}' not found`),
      ],
    ],
    [
      "a serial number that is too long",
      [["nvmf_create_subsystem", { nqn: NQN, serial_number: "S".repeat(21) }]],
      [
        error(-32602, `Invalid SN ${"S".repeat(21)}`),
        error(-32602, `Invalid SN ${"S".repeat(21)}`),
        error(-32602, "Invalid parameters"),
      ],
    ],
    [
      "reading a controller that does not exist",
      [["bdev_nvme_get_controllers", { name: "nvme9" }]],
      [{ error: { code: 22 } }, { error: { code: 22 } }, { error: { code: -22 } }],
    ],
    [
      "a host allowed twice",
      [subsystem, host, host],
      [{ result: true }, { error: { code: -32603 } }, { error: { code: -32603 } }],
    ],
    [
      "a listener added twice",
      [subsystem, listener, listener],
      [{ result: true }, { error: { code: -32602 } }, { error: { code: -32602 } }],
    ],
    [
      "adding a host with an unknown DH-CHAP key",
      [subsystem, ["nvmf_subsystem_add_host", { nqn: NQN, host: HOST, dhchap_key: "k" }]],
      [{ result: true }, { error: { code: -32602 } }, { error: { code: -32602 } }],
    ],
    [
      "bdev_get_iostat with `name`",
      [["bdev_get_iostat", { name: "none" }]],
      [error(-19, "No such device"), error(-19, "No such device"), { error: { code: -32603 } }],
    ],
    [
      "bdev_get_iostat with `names`",
      [["bdev_get_iostat", { names: [] }]],
      [{ error: { code: -32603 } }, { error: { code: -32603 } }, { result: { bdevs: [] } }],
    ],
    [
      "a parameter added in 26.09",
      [["nvmf_create_subsystem", { nqn: NQN, enable_nssr: false }]],
      [{ error: { code: -32602 } }, { error: { code: -32602 } }, { result: true }],
    ],
    [
      "a parameter removed in 26.09",
      [["nvmf_create_subsystem", { nqn: NQN, max_discard_size_kib: 4 }]],
      [{ result: true }, { result: true }, { error: { code: -32602 } }],
    ],
  ])("%s", async (_what, calls, [oldest, older, newest]) => {
    expect(await onEach(...calls)).toMatchObject({
      "24.01": oldest,
      "25.05": older,
      "26.09": newest,
    });
  });

  it("lists a subsystem with the fields of its release", async () => {
    const listed = await onEach(subsystem, listener, ["nvmf_get_subsystems", { nqn: NQN }]);
    const [oldest, older, newest] = RELEASES.map((release) => listed[release]?.result);
    expect(oldest).toMatchObject([{ listen_addresses: [{ transport: "TCP", trtype: "TCP" }] }]);
    expect(older).not.toMatchObject([{ passthrough: false }]);
    expect(newest).toMatchObject([{ passthrough: false, dmrsl: 2_097_152 }]);
  });
});

describe("one request", () => {
  it.each<[ReleaseName, number, number]>([
    ["24.01", 32_000, 33_000],
    ["25.05", 32_000, 33_000],
    ["26.09", 262_000, 300_000],
  ])(
    "to %s of %i bytes is answered, of %i bytes closes the connection",
    async (release, passes, closed) => {
      const long = (bytes: number): Call => ["bdev_get_bdevs", { name: "x".repeat(bytes - 100) }];
      await on(release, async (sim) => {
        expect(await ask(sim, long(passes))).toMatchObject([error(-19, "No such device")]);
        expect(await ask(sim, long(closed))).toEqual([]);
      });
    },
  );

  it("that is a JSON-RPC batch is refused as a whole by 25.05", async () => {
    await on("25.05", async ({ socketPath }) => {
      const socket = connect(socketPath);
      socket.write('[{"jsonrpc":"2.0","id":1,"method":"rpc_get_methods"}]');
      const [chunk] = await once(socket.setEncoding("utf8"), "data");
      expect(JSON.parse(String(chunk))).toMatchObject({ id: null, error: { code: -32600 } });
      socket.destroy();
    });
  });
});

describe("several changes of one subsystem in one write", () => {
  const both: readonly Call[] = [subsystem, listener];

  it("are refused by 24.01 except the first, and queued by 25.05 and 26.09", async () => {
    const refused = error(-32603, "subsystem busy, retry later.\n");
    const second = async (release: ReleaseName) =>
      await on(release, async (sim) => {
        await ask(sim, transport);
        return (await ask(sim, ...both))[1];
      });
    const answers = await Promise.all(RELEASES.map(second));
    expect(answers).toMatchObject([refused, { result: true }, { result: true }]);
  });

  it("crash 25.05 when the subsystem is deleted while a listener is added", async () => {
    await on("25.05", async (sim) => {
      await ask(sim, transport, subsystem);
      expect(await ask(sim, listener, ["nvmf_delete_subsystem", { nqn: NQN }])).toEqual([]);
      const { code, stderr } = await sim.ended();
      expect(code).toBe(70);
      expect(stderr).toContain("while nvmf_subsystem_add_listener of it runs");
    });
  });
});
