// Hosts of a simulator process, over its control socket: those that outlive the process, and those
// that live in it.
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ControlFabric } from "../../../src/sim/host/control-fabric.ts";
import { SimulatedHost } from "../../../src/sim/host/simulated-host.ts";
import { Control } from "../../support/control.ts";
import { simulator, type Simulator } from "../target/simulator.ts";
import { ADDRESS, exported, HOST, MIB, NQN, type Export } from "./export-scenario.ts";
import { PATIENT } from "../raw-rpc.ts";

const PAGE = Buffer.alloc(4_096, 7);

type Scenario = AsyncDisposable & {
  readonly sim: Simulator;
  readonly one: Export;
  readonly control: string;
};

async function scenario(): Promise<Scenario> {
  const stack = new AsyncDisposableStack();
  const sim = stack.use(await simulator());
  const one = await exported(sim.socketPath);
  const control = join(sim.folder, "control");
  return { sim, one, control, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

async function connected({ control }: Scenario): Promise<SimulatedHost> {
  const host = new SimulatedHost({
    fabric: new ControlFabric(control),
    host: HOST,
    nqn: NQN,
    address: ADDRESS,
    reconnectDelayMs: 20,
    ctrlLossTmoMs: 60_000,
  });
  host.start();
  await host.until(() => host.device !== undefined);
  return host;
}

describe("a host outside the target process", () => {
  it("outlives a kill -9: its I/O waits, and goes on on the same disk", async () => {
    await using setup = await scenario();
    using host = await connected(setup);
    await host.write(0, PAGE);
    const restarting = setup.sim.restart();
    await host.until(() => host.state === "connecting");
    const write = host.write(4_096, PAGE);
    await restarting;
    await setup.one.exportAgain();
    expect(await write).toMatchObject({ ok: true });
    expect(await host.verify()).toEqual([]);
    expect(host.device?.diskseq).toBe(1);
    expect(host.counters).toMatchObject({ errors: 0, lostDevices: 0, reconnects: 1 });
  });

  it("loses its disk when the subsystem is reachable before the namespace", async () => {
    await using setup = await scenario();
    using host = await connected(setup);
    await setup.sim.restart();
    const { one } = setup;
    await one.rpc("nvmf_create_transport", { trtype: "TCP" });
    await one.createSubsystem();
    await one.addHost();
    await one.addListener();
    await host.until(() => host.counters.lostDevices === 1);
    expect(host.state).toBe("live");
    expect(host.device).toBeUndefined();
  });

  it("notices a namespace that grew, one that went, and the end of its access", async () => {
    await using setup = await scenario();
    using host = await connected(setup);
    const { one } = setup;
    await one.rpc("bdev_lvol_resize", { name: one.lvol, size_in_mib: 16 });
    await host.until(() => host.device?.bytes === 16 * MIB);
    await one.removeNamespace();
    await host.until(() => host.device === undefined);
    await one.removeHost();
    await host.until(() => host.state === "connecting");
    await host.until(() => host.lastStatus === 0x184);
    expect(host.counters).toMatchObject({ lostDevices: 1, reconnects: 0 });
  });

  it("ends its connection when it stops", async () => {
    await using setup = await scenario();
    const host = await connected(setup);
    const { rpc } = setup.one;
    const controllers = () => rpc("nvmf_subsystem_get_controllers", { nqn: NQN });
    expect(await controllers()).toMatchObject([{ hostnqn: HOST }]);
    host.stop();
    await expect.poll(controllers, PATIENT).toEqual([]);
  });
});

describe("a host inside the target process", () => {
  const name = { nqn: NQN, host: HOST };

  it("is driven by orders: it writes, reads, queues and tells what it met", async () => {
    await using setup = await scenario();
    await using control = await Control.open(setup.control);
    const times = { reconnect_delay_ms: 10, ctrl_loss_tmo_ms: 60_000 };
    await control.ask({ op: "start_host", ...name, ...ADDRESS, ...times });
    const state = () => control.ask({ op: "host_state", ...name });
    await expect.poll(state, PATIENT).toMatchObject({ state: "live", device: { diskseq: 1 } });
    const write = { op: "host_io", ...name, kind: "write", offset: 0, hex: "07", times: 4_096 };
    expect(await control.ask(write)).toEqual({ done: true });
    const read = { op: "host_io", ...name, kind: "read", offset: 512, bytes: 512 };
    expect(await control.ask(read)).toEqual({ hex: "07".repeat(512) });
    await setup.one.removeListener();
    expect(await control.ask(write)).toEqual({ queued: true });
    expect(await state()).toMatchObject({ state: "connecting", waiting: 1 });
    await setup.one.addListener();
    await expect
      .poll(state, PATIENT)
      .toMatchObject({ waiting: 0, counters: { writes: 2, errors: 0, reconnects: 1 } });
  });
});
