import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { identityOf, isRunning, writePidFile } from "../../src/demo/process-identity.ts";
import { endLeftOverProcess, superviseProcess } from "../../src/demo/processes.ts";

/** Script that prints its pid and ends on SIGTERM. */
const ENDS_ON_SIGTERM = "console.log('up', process.pid); setInterval(() => {}, 1000)";
/** Script that prints "up" and ignores SIGTERM. */
const IGNORES_SIGTERM =
  "process.on('SIGTERM', () => console.log('asked')); console.log('up'); setInterval(() => {}, 1000)";

test("a killed process is restarted, and its end is reported with the signal", async () => {
  await using scenario = await temporary();
  await using child = await superviseProcess(scenario.options(ENDS_ON_SIGTERM));
  const first = child.pid!;
  process.kill(first, "SIGKILL");

  await expect.poll(() => child.starts).toBe(2);
  await expect.poll(() => child.pid).toBeGreaterThan(0);
  expect(child.pid).not.toBe(first);
  expect(identityOf(first)).toBeUndefined();
  expect(scenario.reports).toEqual([
    expect.stringMatching(/^part was killed by SIGKILL; restarting it/),
    `part restarted as process ${child.pid}`,
  ]);
});

test("an abort of the target is reported in capitals with the end of its log", async () => {
  await using scenario = await temporary();
  await writeFile(join(scenario.dir, "part.log"), "output of an earlier run\n");
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

test("a process that exits with 78 (bad configuration) is not restarted", async () => {
  await using scenario = await temporary();
  await using child = await superviseProcess(
    scenario.options("console.error('DATABASE_URL: is not set'); process.exit(78)"),
  );

  const failure = await child.failure;
  expect(failure.message).toMatch(/^part ended with code 78 and is not restarted/);
  expect(failure.message).toContain("DATABASE_URL: is not set");
  expect(child.starts).toBe(1);
  expect(child.pid).toBeUndefined();
});

test("a process that exits early three times is not restarted; the failure has the end of its log", async () => {
  await using scenario = await temporary();
  await using child = await superviseProcess(
    scenario.options("console.error('port 50051 is in use'); process.exit(1)"),
  );

  const failure = await child.failure;
  expect(failure.message).toMatch(/^part ended with code 1 and is not restarted/);
  expect(failure.message).toContain("port 50051 is in use");
  expect(child.starts).toBe(3);
  expect(scenario.reports.filter((report) => report.includes("ended with code 1"))).toHaveLength(2);
});

test("a process that is killed by signals is restarted every time", async () => {
  await using scenario = await temporary();
  await using child = await superviseProcess(scenario.options(ENDS_ON_SIGTERM));
  for (let kills = 1; kills <= 5; kills += 1) {
    await expect.poll(() => child.starts).toBe(kills);
    process.kill(child.pid!, "SIGKILL");
  }
  await expect.poll(() => child.starts).toBe(6);
});

test("stop sends SIGTERM once, then SIGKILL, and leaves neither process nor pid file", async () => {
  await using scenario = await temporary();
  const child = await superviseProcess({
    ...scenario.options(IGNORES_SIGTERM),
    stopTimeoutMs: 100,
  });
  const identity = identityOf(child.pid!)!;
  await expect.poll(() => scenario.read("part.log")).toContain("up");
  await child[Symbol.asyncDispose]();

  expect(isRunning(identity)).toBe(false);
  expect(await scenario.read("part.log")).toBe("up\nasked\n");
  expect(await scenario.read("part.pid")).toBeUndefined();
  expect(scenario.reports).toEqual([]);
});

test("stop during the delay before a restart prevents the restart", async () => {
  await using scenario = await temporary();
  const child = await superviseProcess({
    ...scenario.options(ENDS_ON_SIGTERM),
    restartDelayMs: 60_000,
  });
  process.kill(child.pid!, "SIGKILL");
  await expect.poll(() => scenario.reports.length).toBe(1);
  await child[Symbol.asyncDispose]();
  expect(child.starts).toBe(1);
});

test("the process of a killed supervisor is ended before a new one is started", async () => {
  await using scenario = await temporary();
  const leftOver = await killedSupervisor(scenario);
  expect(isRunning(leftOver)).toBe(true);

  await using child = await superviseProcess(scenario.options(ENDS_ON_SIGTERM));
  expect(isRunning(leftOver)).toBe(false);
  expect(child.pid).not.toBe(leftOver.pid);
  expect(isRunning(identityOf(child.pid!)!)).toBe(true);
});

test("another process that has got the same pid is not ended", async () => {
  await using scenario = await temporary();
  const otherProcess = spawn(process.execPath, ["-e", ENDS_ON_SIGTERM], { stdio: "ignore" });
  try {
    const identity = identityOf(otherProcess.pid!)!;
    const earlier = { ...identity, startTicks: String(BigInt(identity.startTicks) - 1n) };
    writePidFile(join(scenario.dir, "part.pid"), earlier);
    expect(await endLeftOverProcess(scenario.options(ENDS_ON_SIGTERM))).toBe(false);

    writePidFile(join(scenario.dir, "part.pid"), { ...identity, bootId: "an earlier boot" });
    expect(await endLeftOverProcess(scenario.options(ENDS_ON_SIGTERM))).toBe(false);

    expect(isRunning(identity)).toBe(true);
    writePidFile(join(scenario.dir, "part.pid"), identity);
    expect(await endLeftOverProcess(scenario.options(ENDS_ON_SIGTERM))).toBe(true);
    expect(isRunning(identity)).toBe(false);
  } finally {
    otherProcess.kill("SIGKILL");
  }
});

test("a truncated or foreign pid file identifies no process", async () => {
  await using scenario = await temporary();
  for (const text of ["", "1\n", '{"pid":1', '{"pid":-1,"startTicks":"1","bootId":"x"}']) {
    await writeFile(join(scenario.dir, "part.pid"), text);
    expect(await endLeftOverProcess(scenario.options(ENDS_ON_SIGTERM))).toBe(false);
  }
});

/** Runs superviseProcess in another process and kills that with -9 once its child is up. */
async function killedSupervisor(scenario: Scenario) {
  const script = join(scenario.dir, "supervisor.ts");
  const source = new URL("../../src/demo/processes.ts", import.meta.url).href;
  await writeFile(
    script,
    `import { superviseProcess } from ${JSON.stringify(source)};
     await superviseProcess({ name: "part", args: ["-e", ${JSON.stringify(ENDS_ON_SIGTERM)}],
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
