// What a Linux host does while a target changes and restarts under it
// (docs/spdk-contract.md#hosts-and-a-restarting-target), on an in-process target and with time
// that the test moves.
import { describe, expect, it } from "vitest";
import { ManualClock } from "../../../src/sim/host/clock.ts";
import { SimulatedHost } from "../../../src/sim/host/simulated-host.ts";
import { inProcessTarget, type InProcessTarget } from "../../support/in-process-target.ts";
import { ADDRESS, exported, HOST, MIB, NQN, type Export } from "./export-scenario.ts";

type Scenario = AsyncDisposable & {
  readonly target: InProcessTarget;
  readonly one: Export;
  readonly clock: ManualClock;
  readonly host: SimulatedHost;
};

const RECONNECT_MS = 20;
const LOSS_MS = 2_000;
const PAGE = Buffer.alloc(4_096, 7);

async function scenario(): Promise<Scenario> {
  const stack = new AsyncDisposableStack();
  const target = stack.use(await inProcessTarget());
  const one = await exported(target.socket);
  const clock = new ManualClock();
  const host = stack.use(
    new SimulatedHost({
      fabric: target.fabric,
      host: HOST,
      nqn: NQN,
      address: ADDRESS,
      reconnectDelayMs: RECONNECT_MS,
      ctrlLossTmoMs: LOSS_MS,
      clock,
    }),
  );
  return { target, one, clock, host, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

/** A scenario whose host has connected and written a page. */
async function connected(): Promise<Scenario> {
  const setup = await scenario();
  setup.host.start();
  await setup.host.until(() => setup.host.device !== undefined);
  expect(await setup.host.write(0, PAGE)).toMatchObject({ ok: true });
  return setup;
}

describe("a host that connects", () => {
  it("is listed as a controller with its queue pairs, and counted in the stats", async () => {
    await using setup = await connected();
    const { rpc } = setup.one;
    expect(await rpc("nvmf_subsystem_get_controllers", { nqn: NQN })).toMatchObject([
      { hostnqn: HOST },
    ]);
    expect(await rpc("nvmf_subsystem_get_qpairs", { nqn: NQN })).toMatchObject([
      { qid: 0, hostnqn: HOST, listen_address: { trsvcid: "4420" } },
      { qid: 1, hostnqn: HOST },
    ]);
    const one = { admin_qpairs: 1, current_admin_qpairs: 1, current_io_qpairs: 1 };
    expect(await rpc("nvmf_get_stats")).toMatchObject({ poll_groups: [one] });
    setup.host.stop();
    expect(await rpc("nvmf_get_stats")).toMatchObject({
      poll_groups: [{ admin_qpairs: 1, current_admin_qpairs: 0 }],
    });
  });

  it("reads back what it wrote, also after a kill of the target", async () => {
    await using setup = await connected();
    const { host, target, one, clock } = setup;
    expect(await host.verify()).toEqual([]);
    await target.restart();
    await one.exportAgain();
    await clock.advance(RECONNECT_MS);
    expect(await host.verify()).toEqual([]);
    expect(host.counters).toMatchObject({ mismatches: 0, errors: 0, reconnects: 1 });
  });

  it("notices blocks that somebody else overwrote", async () => {
    await using setup = await connected();
    const { host, target, one } = setup;
    const lvol = target.state().lvol(one.lvol);
    lvol?.store.base.disk.write(lvol.store.store.firstCluster * MIB, Buffer.alloc(512, 9));
    expect(await host.verify()).toEqual(["1 sectors of 4096 bytes at 0 differ"]);
  });

  it.each([
    ["0x182 where there is no such subsystem", "deleteSubsystem", 0x182],
    ["0x184 where it is not allowed", "removeHost", 0x184],
    ["0x184 where the subsystem has no listener", "removeListener", 0x184],
  ] as const)("is refused with %s, and asks again", async (_what, change, status) => {
    await using setup = await scenario();
    const { host, one, clock } = setup;
    await one[change]();
    host.start();
    await clock.advance(10 * RECONNECT_MS);
    expect(host.lastStatus).toBe(status);
    expect(host.counters.refusedConnects).toBe(11);
    if (change === "deleteSubsystem") {
      await one.createSubsystem();
      await one.addHost();
      await one.addNamespace();
      await one.addListener();
    } else await one[change === "removeHost" ? "addHost" : "addListener"]();
    await clock.advance(RECONNECT_MS);
    expect(host.state).toBe("live");
    expect(host.device?.diskseq).toBe(1);
  });

  it("is refused on an address at which only another subsystem listens", async () => {
    await using setup = await scenario();
    const { host, one, clock } = setup;
    await one.removeListener();
    const nqn = "nqn.2026-11.io.test:other";
    await one.rpc("nvmf_create_subsystem", { nqn, allow_any_host: true });
    const listener = { trtype: "TCP", adrfam: "IPv4", ...ADDRESS };
    await one.rpc("nvmf_subsystem_add_listener", { nqn, listen_address: listener });
    host.start();
    await clock.advance(0);
    expect(host.lastStatus).toBe(0x184);
  });
});

describe("while a host is not connected", () => {
  it("its I/O waits, and goes on as the same disk after a restart with the namespace first", async () => {
    await using setup = await connected();
    const { host, target, one, clock } = setup;
    await target.kill();
    const write = host.write(4_096, PAGE);
    await clock.advance(100 * RECONNECT_MS - 100);
    expect(host).toMatchObject({ state: "connecting", waiting: 1 });
    await target.restart();
    await one.exportAgain();
    await clock.advance(RECONNECT_MS);
    expect(await write).toMatchObject({ ok: true });
    expect(host.device?.diskseq).toBe(1);
    expect(host.counters).toMatchObject({ errors: 0, lostDevices: 0, longestGapMs: 1_920 });
  });

  it("its I/O fails once ctrl-loss-tmo has passed, and so does all later I/O", async () => {
    await using setup = await connected();
    const { host, target, clock } = setup;
    await target.kill();
    const write = host.write(0, PAGE);
    await clock.advance(LOSS_MS - 1);
    expect(host.waiting).toBe(1);
    await clock.advance(1);
    expect(await write).toMatchObject({ ok: false });
    expect(host.state).toBe("removed");
    expect(await host.write(0, PAGE)).toMatchObject({ ok: false });
    expect(host.counters).toMatchObject({ errors: 2, lostDevices: 1 });
  });

  it("a removed listener is nothing but a pause", async () => {
    await using setup = await connected();
    const { host, one, clock } = setup;
    await one.removeListener();
    expect(host.state).toBe("connecting");
    const write = host.write(0, PAGE);
    await clock.advance(5 * RECONNECT_MS);
    await one.addListener();
    await clock.advance(RECONNECT_MS);
    expect(await write).toMatchObject({ ok: true });
    expect(host.counters).toMatchObject({ errors: 0, lostDevices: 0, reconnects: 1 });
  });
});

describe("a host loses its block device for good", () => {
  it("when the subsystem is reachable before its namespace", async () => {
    await using setup = await connected();
    const { host, target, one, clock } = setup;
    await target.kill();
    const write = host.write(0, PAGE);
    await target.restart();
    await one.attach();
    await one.rpc("nvmf_create_transport", { trtype: "TCP" });
    await one.createSubsystem();
    await one.addHost();
    await one.addListener();
    await clock.advance(RECONNECT_MS);
    expect(await write).toMatchObject({ ok: false });
    await one.addNamespace();
    await clock.advance(100);
    expect(host.device?.diskseq).toBe(2);
    // What was open stays broken; whoever opens the new device is fine.
    expect(await host.write(0, PAGE)).toMatchObject({ ok: false });
    host.reopen();
    expect(await host.write(0, PAGE)).toMatchObject({ ok: true });
    expect(host.counters).toMatchObject({ lostDevices: 1, errors: 2 });
  });

  it("when another volume is behind the namespace", async () => {
    await using setup = await connected();
    const { host, one, clock } = setup;
    const other = await one.createLvol("w");
    await one.removeListener();
    await one.removeNamespace();
    await one.addNamespace(other);
    await one.addListener();
    const write = host.write(0, PAGE);
    await clock.advance(RECONNECT_MS);
    expect(await write).toMatchObject({ ok: false });
    expect(host.device).toMatchObject({ diskseq: 2, uuid: other });
  });

  it("when the namespace is removed and the connection lives on", async () => {
    await using setup = await connected();
    const { host, one, clock } = setup;
    await one.removeNamespace();
    expect(await host.write(0, PAGE)).toMatchObject({ ok: false });
    await clock.advance(500);
    expect(host.device).toBeUndefined();
    await one.deleteSubsystem();
    expect(await host.write(0, PAGE)).toMatchObject({ ok: false });
    expect(host.counters.lostDevices).toBe(1);
  });
});

describe("the I/O of a connected host hangs until ctrl-loss-tmo", () => {
  it.each([
    ["the subsystem is deleted", ["deleteSubsystem"]],
    ["namespace and subsystem go back to back", ["removeNamespace", "deleteSubsystem"]],
    ["the host is removed first", ["removeHost", "removeNamespace", "deleteSubsystem"]],
    ["the listener goes first", ["removeListener", "removeNamespace", "deleteSubsystem"]],
  ] as const)("when %s", async (_what, changes) => {
    await using setup = await connected();
    const { host, one, clock } = setup;
    for (const change of changes) {
      await one[change]();
      await clock.advance(100);
    }
    const write = host.write(0, PAGE);
    await clock.advance(1_500);
    expect(host).toMatchObject({ state: "connecting", waiting: 1 });
    await clock.advance(500);
    expect(await write).toMatchObject({ ok: false });
    expect(host.state).toBe("removed");
  });
});

it("a host that is no longer allowed is disconnected before the answer", async () => {
  await using setup = await connected();
  await setup.one.removeHost();
  expect(setup.host.state).toBe("connecting");
});

describe("a grown namespace", () => {
  it("has its new size after the scan that follows the event", async () => {
    await using setup = await connected();
    const { host, one, clock } = setup;
    await one.rpc("bdev_lvol_resize", { name: one.lvol, size_in_mib: 16 });
    expect(host.device?.bytes).toBe(8 * MIB);
    await clock.advance(100);
    expect(host.device).toMatchObject({ bytes: 16 * MIB, diskseq: 1 });
  });

  it("that grew while the host was away has its new size after the reconnect", async () => {
    await using setup = await connected();
    const { host, one, clock } = setup;
    await one.removeListener();
    await one.rpc("bdev_lvol_resize", { name: one.lvol, size_in_mib: 16 });
    await one.addListener();
    await clock.advance(RECONNECT_MS);
    expect(host.device).toMatchObject({ bytes: 16 * MIB, diskseq: 1 });
  });
});
