// What tells a restarted target from the one before
// (docs/spdk-contract.md#which-process-of-the-target).
import { statSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import type { ReleaseName } from "../../../src/sim/target/release.ts";
import { inProcessTarget } from "../../support/in-process-target.ts";
import { call, PATIENT } from "../raw-rpc.ts";
import { simulator } from "./simulator.ts";

const reactors = z.object({
  tick_rate: z.number(),
  pid: z.number().optional(),
  reactors: z.tuple([
    z.object({
      lcore: z.literal(0),
      tid: z.number().optional(),
      busy: z.number(),
      idle: z.number(),
      in_interrupt: z.literal(false),
    }),
  ]),
});

async function reactorsOf(socket: string) {
  return reactors.parse(await call(socket, "framework_get_reactors"));
}

async function ticksOf(socket: string): Promise<number> {
  return z.object({ ticks: z.number() }).parse(await call(socket, "bdev_get_iostat")).ticks;
}

async function ageOf(socket: string): Promise<number> {
  const [{ busy, idle }] = (await reactorsOf(socket)).reactors;
  return busy + idle;
}

/** The start of the process in ticks lies between the two: one was asked before the other. */
async function startOf(socket: string) {
  const first = await ticksOf(socket);
  const age = await ageOf(socket);
  const last = await ticksOf(socket);
  return { earliest: first - age, latest: last - age };
}

describe("a target", () => {
  it("counts busy and idle ticks that grow, and shows pid and tid", async () => {
    await using target = await inProcessTarget();
    const before = await reactorsOf(target.socket);
    const after = await reactorsOf(target.socket);
    expect(after.reactors[0].busy).toBeGreaterThanOrEqual(before.reactors[0].busy);
    expect(after.reactors[0].idle).toBeGreaterThan(before.reactors[0].idle);
    expect(after.pid).toBe(before.pid);
    expect(after.reactors[0].tid).toBe(after.pid);
  });

  it.each<[string, ReleaseName, boolean]>([
    ["in the path of trace_get_info on 24.01", "24.01", true],
    ["in framework_get_reactors on 25.05", "25.05", false],
  ])("shows its pid %s", async (_where, release, inPath) => {
    await using target = await inProcessTarget({ release });
    const { pid } = target.state().process;
    const found = await reactorsOf(target.socket);
    expect(found.pid).toBe(inPath ? undefined : pid);
    const trace = await call(target.socket, "trace_get_info");
    expect(JSON.stringify(trace).includes(`pid${pid}`)).toBe(inPath);
  });
});

describe("a restart", () => {
  it("in this process has another pid, another start in ticks and another socket file", async () => {
    await using target = await inProcessTarget();
    const facts = async () => ({
      pid: (await reactorsOf(target.socket)).pid,
      start: target.state().process.startTicks,
      mtime: statSync(target.socket, { bigint: true }).mtimeNs,
    });
    const before = await facts();
    const { earliest, latest } = await startOf(target.socket);
    expect(earliest).toBeLessThanOrEqual(before.start);
    expect(latest).toBeGreaterThanOrEqual(before.start);
    await target.restart();
    const after = await facts();
    expect(after.pid).not.toBe(before.pid);
    expect(after.start).toBeGreaterThan(before.start);
    expect(after.mtime).not.toBe(before.mtime);
  });

  it("of a simulator process moves its start in ticks", async () => {
    await using sim = await simulator();
    const { latest } = await startOf(sim.socketPath);
    await sim.restart();
    const earliest = async () => (await startOf(sim.socketPath)).earliest;
    await expect.poll(earliest, PATIENT).toBeGreaterThan(latest);
  });
});
