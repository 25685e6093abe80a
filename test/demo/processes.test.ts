import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { identityOf, isRunning, writePidFile } from "../../src/demo/process-identity.ts";
import { endLeftOverProcess, superviseProcess } from "../../src/demo/processes.ts";

/** Says its pid, and stops when asked to. */
const OBEDIENT = "console.log('up', process.pid); setInterval(() => {}, 1000)";
/** Says when it is deaf to SIGTERM, and stays. */
const DEAF =
  "process.on('SIGTERM', () => console.log('asked')); console.log('up'); setInterval(() => {}, 1000)";

test("a process that dies is started again, and the death is told with its reason", async () => {
  await using scenario = await temporary();
  await using child = await superviseProcess(scenario.options(OBEDIENT));
  const first = child.pid!;
  process.kill(first, "SIGKILL");

  await expect.poll(() => child.starts).toBe(2);
  await expect.poll(() => child.pid).toBeGreaterThan(0);
  expect(child.pid).not.toBe(first);
  expect(identityOf(first)).toBeUndefined();
  expect(scenario.reports).toEqual([
    expect.stringMatching(/^part was killed by SIGKILL; it is started again/),
    `part runs again as process ${child.pid}`,
  ]);
});

test("an abort of the target is shouted with its last words", async () => {
  await using scenario = await temporary();
  await writeFile(join(scenario.dir, "part.log"), "words of an earlier run\n");
  const once = join(scenario.dir, "aborted");
  await using child = await superviseProcess(
    scenario.options(
      `const fs = require("node:fs"); if (!fs.existsSync(${JSON.stringify(once)})) {
        fs.writeFileSync(${JSON.stringify(once)}, ""); console.error("overlapping changes"); process.exit(70) }
      setInterval(() => {}, 1000)`,
    ),
  );

  await expect.poll(() => child.starts).toBe(2);
  expect(scenario.reports).toHaveLength(2);
  expect(scenario.reports[0]).toMatch(/^PART ABORTED/);
  expect(scenario.reports[0]).toMatch(/\noverlapping changes$/);
  expect(scenario.reports[0]).not.toContain("an earlier run");
});

test("bad configuration ends the attempts and is told once", async () => {
  await using scenario = await temporary();
  await using child = await superviseProcess(
    scenario.options("console.error('DATABASE_URL: is not set'); process.exit(78)"),
  );

  const failure = await child.failure;
  expect(failure.message).toMatch(/^part ended with code 78 and is not tried again/);
  expect(failure.message).toContain("DATABASE_URL: is not set");
  expect(child.starts).toBe(1);
  expect(child.pid).toBeUndefined();
});

test("a process that ends by itself at every start is given up with its last words", async () => {
  await using scenario = await temporary();
  await using child = await superviseProcess(
    scenario.options("console.error('port 50051 is in use'); process.exit(1)"),
  );

  const failure = await child.failure;
  expect(failure.message).toMatch(/^part ended with code 1 and is not tried again/);
  expect(failure.message).toContain("port 50051 is in use");
  expect(child.starts).toBe(3);
  expect(scenario.reports.filter((report) => report.includes("ended with code 1"))).toHaveLength(2);
});

test("a process that others kill is started again however often", async () => {
  await using scenario = await temporary();
  await using child = await superviseProcess(scenario.options(OBEDIENT));
  for (let kills = 1; kills <= 5; kills += 1) {
    await expect.poll(() => child.starts).toBe(kills);
    process.kill(child.pid!, "SIGKILL");
  }
  await expect.poll(() => child.starts).toBe(6);
});

test("stopping is asked for once, then forced, and leaves neither process nor pid file", async () => {
  await using scenario = await temporary();
  const child = await superviseProcess({ ...scenario.options(DEAF), stopTimeoutMs: 100 });
  const identity = identityOf(child.pid!)!;
  await expect.poll(() => scenario.read("part.log")).toContain("up");
  await child[Symbol.asyncDispose]();

  expect(isRunning(identity)).toBe(false);
  expect(await scenario.read("part.log")).toBe("up\nasked\n");
  expect(await scenario.read("part.pid")).toBeUndefined();
  expect(scenario.reports).toEqual([]);
});

test("stopping during the pause after a death starts nothing again", async () => {
  await using scenario = await temporary();
  const child = await superviseProcess({ ...scenario.options(OBEDIENT), restartDelayMs: 60_000 });
  process.kill(child.pid!, "SIGKILL");
  await expect.poll(() => scenario.reports.length).toBe(1);
  await child[Symbol.asyncDispose]();
  expect(child.starts).toBe(1);
});

test("what a killed supervisor left is ended before the process is started anew", async () => {
  await using scenario = await temporary();
  const left = await killedSupervisor(scenario);
  expect(isRunning(left)).toBe(true);

  await using child = await superviseProcess(scenario.options(OBEDIENT));
  expect(isRunning(left)).toBe(false);
  expect(child.pid).not.toBe(left.pid);
  expect(isRunning(identityOf(child.pid!)!)).toBe(true);
});

test("another process with the pid of a killed one is left alone", async () => {
  await using scenario = await temporary();
  const stranger = spawn(process.execPath, ["-e", OBEDIENT], { stdio: "ignore" });
  try {
    const identity = identityOf(stranger.pid!)!;
    const earlier = { ...identity, startTicks: String(BigInt(identity.startTicks) - 1n) };
    writePidFile(join(scenario.dir, "part.pid"), earlier);
    expect(await endLeftOverProcess(scenario.options(OBEDIENT))).toBe(false);

    writePidFile(join(scenario.dir, "part.pid"), { ...identity, bootId: "an earlier boot" });
    expect(await endLeftOverProcess(scenario.options(OBEDIENT))).toBe(false);

    expect(isRunning(identity)).toBe(true);
    writePidFile(join(scenario.dir, "part.pid"), identity);
    expect(await endLeftOverProcess(scenario.options(OBEDIENT))).toBe(true);
    expect(isRunning(identity)).toBe(false);
  } finally {
    stranger.kill("SIGKILL");
  }
});

test("a pid file that is cut short or not ours names nobody", async () => {
  await using scenario = await temporary();
  for (const text of ["", "1\n", '{"pid":1', '{"pid":-1,"startTicks":"1","bootId":"x"}']) {
    await writeFile(join(scenario.dir, "part.pid"), text);
    expect(await endLeftOverProcess(scenario.options(OBEDIENT))).toBe(false);
  }
});

/** A supervisor in a process of its own, killed with -9 once its child is up. */
async function killedSupervisor(scenario: Scenario) {
  const script = join(scenario.dir, "supervisor.ts");
  const source = new URL("../../src/demo/processes.ts", import.meta.url).href;
  await writeFile(
    script,
    `import { superviseProcess } from ${JSON.stringify(source)};
     await superviseProcess({ name: "part", args: ["-e", ${JSON.stringify(OBEDIENT)}],
       env: {}, stateDir: ${JSON.stringify(scenario.dir)}, report: () => {} });`,
  );
  const supervisor = spawn(process.execPath, [script], { stdio: "ignore" });
  await expect.poll(() => scenario.read("part.log"), { timeout: 20_000 }).toContain("up");
  const ended = once(supervisor, "exit");
  supervisor.kill("SIGKILL");
  await ended;
  const { pid }: { pid: number } = JSON.parse((await scenario.read("part.pid")) ?? "");
  return identityOf(pid)!;
}

type Scenario = Awaited<ReturnType<typeof temporary>>;

async function temporary() {
  const dir = await mkdtemp(join(tmpdir(), "sn-processes-"));
  const reports: string[] = [];
  return {
    dir,
    reports,
    options: (source: string) => ({
      name: "part",
      args: ["-e", source],
      env: {},
      stateDir: dir,
      report: (sentence: string) => reports.push(sentence),
      restartDelayMs: 1,
    }),
    read: (name: string) => readFile(join(dir, name), "utf8").catch(() => undefined),
    [Symbol.asyncDispose]: () => rm(dir, { recursive: true, force: true }),
  };
}
