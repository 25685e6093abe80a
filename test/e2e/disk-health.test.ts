// The health of disks: read from their controllers, told to whoever asks, and kept to when volumes are
// placed. Nothing that lies on a disk is ever touched because of it.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { DiskHealth } from "../../src/gen/storagenode/v1/node.ts";
import { startTelemetry } from "../../src/telemetry/telemetry.ts";
import { readConfig } from "../../src/config.ts";
import { call, refusal, startAgent, until, type TestAgent } from "../support/agent.ts";
import type { Control } from "../support/control.ts";
import { testDatabase, type TestDatabase } from "../support/database.ts";
import { eventsOf } from "../support/events.ts";
import { scrape, valueOf } from "../support/scrape.ts";
import { REAL_SOCKET, startTarget, type TestTarget } from "../support/target.ts";
import { takeSnapshot } from "../support/snapshots.ts";
import { getLvol, idOf, provision, remove, resize, stateOf } from "../support/volumes.ts";

const TIMING = { healthMs: 40, healthWaitMs: 400, stateLastsMs: 50 };
/** The disk that gives an empty page. */
const SILENT = "SIM2";
const EMPTY = {
  temperature_kelvin: 0,
  available_spare_percentage: 0,
  available_spare_threshold_percentage: 0,
  power_cycles: 0,
  power_on_hours: 0,
};
const GOOD = { controller: "enabled", critical_warning: 0, percentage_used: 0 };

const stack = new AsyncDisposableStack();
let database: TestDatabase;
let target: TestTarget;
let agent: TestAgent;
let control: Control;

describe.skipIf(REAL_SOCKET !== undefined)("the health of disks", () => {
  beforeAll(async () => {
    const { telemetry: config } = readConfig({ DATABASE_URL: "postgresql:///x" });
    const node = { nodeId: "node-1", fleet: "test", version: "0" };
    const telemetry = stack.use(startTelemetry(config, node));
    database = stack.use(await testDatabase());
    target = stack.use(await startTarget({ disks: 3 }));
    control = stack.use(await target.control());
    await control.ask({ op: "health", serial: SILENT, ...EMPTY });
    await control.ask({ op: "health", serial: "SIM0", media_errors: 3 });
    const parts = { url: database.url, target, timing: TIMING };
    agent = stack.use(await startAgent(parts, {}, { telemetry }));
    await agent.ready();
    await until("all disks were looked at", async () => {
      const disks = await Promise.all(["SIM0", "SIM1", SILENT].map(healthOf));
      return disks.every(({ age }) => age !== undefined);
    });
  });

  afterAll(async () => await stack.disposeAsync());

  const diskId = (serial: string) => {
    const row = [...agent.node.agent.rows.disks()].find((disk) => disk.serial === serial);
    return row?.id ?? "";
  };

  async function healthOf(serial: string): Promise<DiskHealth> {
    const { disks } = await call(agent.client, agent.client.getHealth.bind(agent.client), {});
    const found = disks.find((disk) => disk.diskId === diskId(serial));
    if (found === undefined) throw new Error(`no health of ${serial}`);
    return found;
  }

  async function diskOf(serial: string) {
    const request = { diskId: diskId(serial) };
    const { disk } = await call(agent.client, agent.client.getDisk.bind(agent.client), request);
    const condition = (type: string) => disk?.status?.conditions.find((one) => one.type === type);
    return { health: disk?.status?.health, condition };
  }

  async function explained(serial: string) {
    const id = { $case: "diskId", value: diskId(serial) } as const;
    const { client } = agent;
    const answer = await call(client, client.explain.bind(client), { target: id });
    const check = answer.checks.find(({ question }) => question === "Is the drive healthy?");
    return { ...answer, check };
  }

  /** Sets what a disk shows, and waits for what the agent makes of it. */
  /** A page that comes late on a busy machine is no answer to the question, unless it is the question. */
  async function shows(
    serial: string,
    page: object,
    state: string,
    late = false,
  ): Promise<DiskHealth> {
    await control.ask({ op: "health", serial, ...page });
    await until(`${serial} is ${state}`, async () => {
      const recorded = agent.node.agent.rows.disk(diskId(serial))?.health;
      const { state: seen, reasons } = await healthOf(serial);
      const isLate = reasons.includes("PAGE_UNREADABLE");
      return seen === `DISK_HEALTH_STATE_${state}` && recorded === state && isLate === late;
    });
    return await healthOf(serial);
  }

  const provisionOn = (serial: string) => provision(agent, { diskId: diskId(serial) });

  it("is OK with the page as it was read, and when that was", async () => {
    const health = await shows("SIM0", { percentage_used: 7 }, "OK");
    expect(health).toMatchObject({ reasons: [], message: "" });
    expect(health.page).toMatchObject({ temperatureCelsius: 50, sparePercent: 100 });
    expect(health.page?.link).toBeUndefined();
    const { health: shown, condition } = await diskOf("SIM0");
    expect(shown?.state).toBe(health.state);
    expect(condition("Healthy")).toMatchObject({ status: "CONDITION_STATUS_TRUE" });
    await until("the page is the new one", async () => {
      const { page } = await healthOf("SIM0");
      return page?.usedPercent === 7 && page.mediaErrors === 3n;
    });
    const { check } = await explained("SIM0");
    expect(check).toMatchObject({ answer: "CHECK_ANSWER_YES", remedy: "" });
    expect(check?.evidence).toMatch(/^50 °C, 100 % spare .* 7 % of its .*; seen \d+ s ago$/);
  });

  it("is UNKNOWN of a disk without a health page, which is used as any other", async () => {
    const { state, reasons, page } = await healthOf(SILENT);
    expect({ state, reasons, page }).toEqual({
      state: "DISK_HEALTH_STATE_UNKNOWN",
      reasons: ["NO_HEALTH_PAGE"],
      page: undefined,
    });
    expect((await diskOf(SILENT)).condition("Healthy")).toMatchObject({
      status: "CONDITION_STATUS_UNKNOWN",
      reason: "NoHealthPage",
    });
    const lvol = await provisionOn(SILENT);
    expect(stateOf(lvol)).toBe("LVOL_STATE_UP");
    await remove(agent, idOf(lvol));
  });

  it("keeps new volumes off a FAILED disk, and marks those that it has and leaves them alone", async () => {
    const lvol = await provisionOn("SIM0");
    const health = await shows("SIM0", { critical_warning: 8 }, "FAILED");
    expect(health.reasons).toEqual(["READ_ONLY"]);
    const refused = await refusal(provisionOn("SIM0"));
    expect(refused).toMatchObject({ code: 9, reason: "DISK_UNHEALTHY" });
    expect(refused.message).toContain("READ_ONLY: it takes no writes any more");
    const elsewhere = await provision(agent);
    expect(elsewhere.status?.diskId).not.toBe(diskId("SIM0"));

    const growth = await refusal(resize(agent, idOf(lvol), 2n * (lvol.spec?.sizeBytes ?? 0n)));
    expect(growth).toMatchObject({ code: 9, reason: "DISK_UNHEALTHY" });
    const copied = await refusal(takeSnapshot(agent, idOf(lvol)));
    expect(copied).toMatchObject({ code: 9, reason: "DISK_UNHEALTHY" });

    const marked = await getLvol(agent, idOf(lvol));
    expect(stateOf(marked)).toBe("LVOL_STATE_UP");
    expect(marked.status?.conditions.find(({ type }) => type === "DiskFailing")).toMatchObject({
      status: "CONDITION_STATUS_TRUE",
      reason: "DiskFailed",
    });
    const { condition } = await diskOf("SIM0");
    expect(condition("Healthy")).toMatchObject({ reason: "Failed" });
    expect(condition("Schedulable")).toMatchObject({ status: "CONDITION_STATUS_FALSE" });
    const { summary, check } = await explained("SIM0");
    expect(summary).toContain("the drive is failing, so it takes no new volumes: READ_ONLY");
    expect(check?.answer).toBe("CHECK_ANSWER_NO");
    expect(valueOf(await scrape(agent), "storagenode_disk_health", { state: "FAILED" })).toBe(1);

    await shows("SIM0", GOOD, "OK");
    const events = (await eventsOf(agent, diskId("SIM0"))).filter(
      ({ reason }) => reason === "HEALTH_CHANGED",
    );
    expect(events.slice(0, 2)).toMatchObject([
      { before: "FAILED", after: "OK" },
      { before: "OK", after: "FAILED", message: "READ_ONLY: it takes no writes any more" },
    ]);
    const later = await getLvol(agent, idOf(lvol));
    expect(later.status?.conditions.map(({ type }) => type)).not.toContain("DiskFailing");
    await remove(agent, idOf(await provisionOn("SIM0")));
    await remove(agent, idOf(lvol));
    await remove(agent, idOf(elsewhere));
  });

  it("uses a DEGRADED disk as before, and says what is wrong", async () => {
    const health = await shows("SIM0", { percentage_used: 95 }, "DEGRADED");
    expect(health.reasons).toEqual(["WEAR_HIGH"]);
    expect(health.message).toBe("WEAR_HIGH: 95 % of the writes that it is rated for are used");
    await remove(agent, idOf(await provisionOn("SIM0")));
    await shows("SIM0", GOOD, "OK");
  });

  it.each([
    ["refuses its page", "failed", "FAILED", "CONTROLLER_FAILED"],
    ["hangs", "resetting", "DEGRADED", "CONTROLLER_RESETTING"],
  ])(
    "a controller that %s is found out, and keeps no other from being read",
    async (_what, controller, state, reason) => {
      const { reasons } = await shows("SIM1", { controller }, state);
      expect(reasons).toEqual([reason]);
      await shows("SIM0", { percentage_used: 91 }, "DEGRADED");
      await shows("SIM0", GOOD, "OK");
      await shows("SIM1", { controller: "enabled" }, "OK");
    },
  );

  it("a page that is refused or late though its controller is enabled counts as unreadable", async () => {
    const method = "bdev_nvme_get_controller_health_info";
    const name = agent.node.agent.rows.disk(diskId("SIM1"))?.controllerName ?? "";
    const which = { method, with: name, always: true };
    const errors = { code: -32603, message: "Internal error." };
    for (const rule of [
      { op: "fail", ...errors },
      { op: "delay", ms: 60_000 },
    ]) {
      await control.ask({ ...rule, ...which });
      const { reasons, page } = await shows("SIM1", {}, "DEGRADED", true);
      expect(reasons).toEqual(["PAGE_UNREADABLE"]);
      // What was last read is still told.
      expect(page).toMatchObject({ sparePercent: 100 });
      await control.ask({ op: "clear_rules" });
      if (rule.op === "fail") await shows("SIM1", {}, "OK");
    }
  });
});

it.skipIf(REAL_SOCKET !== undefined)(
  "a FAILED disk stays so for the next agent, which has not looked at it yet",
  async () => {
    await using one = new AsyncDisposableStack();
    const { url } = one.use(await testDatabase());
    const target = one.use(await startTarget({ disks: 1 }));
    {
      await using control = await target.control();
      await control.ask({ op: "health", media_errors: 9, critical_warning: 4 });
    }
    const failed = (agent: TestAgent) =>
      [...agent.node.agent.rows.disks()].some(({ health }) => health === "FAILED");
    {
      await using first = await startAgent({ url, target, timing: TIMING });
      await first.ready();
      await until("its disk is FAILED", () => failed(first));
    }
    const timing = { ...TIMING, healthMs: 3_600_000 };
    await using next = await startAgent({ url, target, timing });
    await next.ready();
    const { disks } = await call(next.client, next.client.getHealth.bind(next.client), {});
    expect(disks).toMatchObject([
      { state: "DISK_HEALTH_STATE_FAILED", reasons: ["RELIABILITY_DEGRADED"] },
    ]);
    expect(disks[0]?.page?.mediaErrors).toBe(9n);
    expect(await refusal(provision(next))).toMatchObject({ reason: "DISK_UNHEALTHY" });
  },
);
