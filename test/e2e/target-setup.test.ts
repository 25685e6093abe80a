// What the agent makes on a target besides volumes: the transport, and the listeners of discovery; and a
// target whose list of subsystems is longer than SPDK can answer.
import { pino } from "pino";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import type { Subsystem } from "../../src/sim/target/nvmf-objects.ts";
import { startAgent, until } from "../support/agent.ts";
import { recycledDatabase } from "../support/database.ts";
import { inProcessTarget, type InProcessTarget } from "../support/in-process-target.ts";
import { ScriptedTarget } from "../support/scripted-target.ts";
import { GIB, idOf, provision, stateOf } from "../support/volumes.ts";

const SMALL = { sizeBytes: GIB / 16n };
const LIVE = "127.0.0.1";
/** No machine has it (RFC 5737). */
const DEAD = "192.0.2.9";

const line = z.looseObject({ level: z.number(), msg: z.string(), time: z.number() });

function logged() {
  const lines: z.infer<typeof line>[] = [];
  const write = (text: string) => void lines.push(line.parse(JSON.parse(text)));
  return { lines, log: pino({ level: "warn" }, { write }) };
}

const discovery = (target: InProcessTarget) =>
  target.state().discoveryListeners.map(({ traddr }) => traddr);

describe("a transport that the target refuses", () => {
  it("is tried again ever more rarely, with the cause in health and one line for each attempt", async () => {
    await using database = await recycledDatabase();
    await using target = await inProcessTarget();
    const { gate } = target.engine();
    const failure = { code: -32603, message: "Failed to create transport.", half: false };
    gate.addRule({
      effect: "fail",
      method: "nvmf_create_transport",
      nth: 1,
      always: true,
      failure,
    });
    const { lines, log } = logged();
    await using agent = await startAgent({ url: database.url, target }, {}, { log });
    const tries = () => gate.counts["nvmf_create_transport"] ?? 0;
    await until("it was tried four times", () => tries() === 4);
    const reason = () =>
      agent.node.agent.components().find(({ name }) => name === "target")?.reason ?? "";
    const cause = "cannot create the TCP transport: nvmf_create_transport answered -32603";
    await until("the fourth is reported", () => lines.some(({ attempt }) => attempt === 4));
    expect(reason()).toMatch(new RegExp(`^${cause} \\(Failed.*; next try at 20`));
    const attempts = lines.filter(({ msg }) => msg.includes("cannot be identified"));
    expect(attempts.map(({ attempt }) => attempt)).toEqual([1, 2, 3, 4]);
    expect(attempts.every((one) => !("err" in one))).toBe(true);
    const waits = attempts.map(({ time, reason: said }) => {
      return Date.parse(String(said).replace(/^.*next try at /, "")) - time;
    });
    // At least three quarters of 200, 400, 800 and 1,600 ms, less what writing the line took.
    const least = [150, 300, 600, 1_200].map((ms) => ms - 50);
    expect(waits.every((ms, index) => ms >= (least[index] ?? 0))).toBe(true);
    gate.clear();
    await agent.ready();
    expect(target.state().transports).toEqual(["TCP"]);
  });
});

describe("a target that cannot be identified once the agent may change it", () => {
  it("is asked ever more rarely, too", async () => {
    await using database = await recycledDatabase();
    await using elsewhere = await inProcessTarget();
    await using target = await inProcessTarget();
    const timing = { leaseTermMs: 900 };
    const { lines, log } = logged();
    // While another agent leads, this one may neither make the transport nor mark the target.
    const leader = await startAgent({ url: database.url, target: elsewhere, timing });
    await leader.ready();
    await using follower = await startAgent({ url: database.url, target, timing }, {}, { log });
    const { gate } = target.engine();
    const version = () => follower.node.agent.targetVersion() !== "";
    await until(
      "it knows the target",
      () => version() && gate.counts["nvmf_get_transports()"] === 1,
    );
    const failure = { code: -32603, message: "Internal error", half: false };
    const always = { effect: "fail", nth: 1, always: true, failure } as const;
    gate.addRule({ ...always, method: "nvmf_get_transports" });
    await leader[Symbol.asyncDispose]();
    await until("the fourth attempt is reported", () => lines.some(({ attempt }) => attempt === 4));
    const attempts = lines.filter(({ msg }) => msg.includes("cannot be identified"));
    const pauses = attempts.slice(1).map(({ time }, index) => time - (attempts[index]?.time ?? 0));
    // At least three quarters of 200, 400 and 800 ms.
    expect(pauses.slice(0, 3).every((ms, index) => ms >= 150 * 2 ** index)).toBe(true);
    gate.clear();
    await until("it is ready", () => follower.node.agent.ready());
  });
});

describe("a target that dies each time it is identified", () => {
  it("is asked ever more rarely, and health says what happens and when the next try is", async () => {
    await using database = await recycledDatabase();
    await using target = await ScriptedTarget.listening();
    // Each connection that asks anything is another process: the one before has died of it.
    const deaths: number[] = [];
    target.script = () => {
      if (deaths.length < target.connections) deaths.push(Date.now());
      target.hangUp();
      return undefined;
    };
    const { lines, log } = logged();
    const parts = { url: database.url, target: { socket: target.path, fabricDisks: "" } };
    await using agent = await startAgent(parts, {}, { log });
    await until("it has died four times", () => deaths.length === 4);
    const pauses = deaths.slice(1).map((time, index) => time - (deaths[index] ?? 0));
    // At least three quarters of 200, 400 and 800 ms.
    expect(pauses.every((ms, index) => ms >= 150 * 2 ** index)).toBe(true);
    const shown = () => agent.node.agent.components().find(({ name }) => name === "target");
    const said = /it ended while it was identified \(attempt [45]\); next try at 20/;
    await until("health says so", () => said.test(shown()?.reason ?? ""));
    expect(shown()?.cure).toMatch(/^see the target's log and core file/);
    expect(lines.filter(({ msg }) => msg === "SPDK target disconnected").length).toBeLessThan(7);
  });
});

describe("discovery", () => {
  it("listens at each export address that is there; a dead one and stale ones harm nothing", async () => {
    await using database = await recycledDatabase();
    await using target = await inProcessTarget();
    const env = { STORAGE_NODE_EXPORT_ADDR: `${LIVE},${DEAD}` };
    const stale = { trtype: "TCP", adrfam: "IPv4", traddr: "127.0.0.7", trsvcid: "4440" };
    target.state().discoveryListeners = [stale];
    {
      await using agent = await startAgent({ url: database.url, target }, env);
      await agent.ready();
      await until("it listens there only", () => discovery(target).join() === LIVE);
      expect(stateOf(await provision(agent, SMALL))).toBe("LVOL_STATE_UP");
      await target.restart();
      await until("it listens again", () => discovery(target).join() === LIVE);
    }
    const moved = { STORAGE_NODE_EXPORT_ADDR: "127.0.0.2" };
    await using next = await startAgent({ url: database.url, target }, moved);
    await next.ready();
    await until("it follows the configuration", () => discovery(target).join() === "127.0.0.2");
  });
});

describe("a target whose list of subsystems is too long to be answered", () => {
  it("is asked for each of ours by name, and volumes are made and exported", async () => {
    await using database = await recycledDatabase();
    await using target = await inProcessTarget();
    {
      await using agent = await startAgent({ url: database.url, target });
      await agent.ready();
      await provision(agent, SMALL);
    }
    const before = [...target.state().subsystems.keys()];
    const lists = () => target.engine().gate.counts["nvmf_get_subsystems()"] ?? 0;
    const listsBefore = lists();
    const [one] = target.state().subsystems.values();
    if (one === undefined) throw new Error("no subsystem");
    // 33 MiB of hosts, in somebody else's subsystem.
    const name = "x".repeat(180);
    const hosts = Array.from({ length: 180_000 }, (_, n) => `nqn.2026-11.io.host:${name}${n}`);
    const nqn = "nqn.2026-11.io.other:large";
    const large: Subsystem = Object.assign(Object.create(Object.getPrototypeOf(one)), one, {
      nqn,
      hosts,
      namespaces: new Map(),
      listeners: [],
    });
    target.state().subsystems.set(nqn, large);
    await using agent = await startAgent({ url: database.url, target });
    await agent.ready();
    const volume = await provision(agent, SMALL);
    expect(stateOf(volume)).toBe("LVOL_STATE_UP");
    const now = [...target.state().subsystems.keys()];
    expect(now.toSorted()).toEqual([...before, nqn, volume.status?.nqn ?? idOf(volume)].toSorted());
    expect(lists() - listsBefore).toBe(1);
  });
});
