// Faults that a test asks for over the control socket: errors, lost and late answers of requests
// that name something, disks that are late, lvols that abort the target.
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { Control } from "../../support/control.ts";
import { inProcessTarget } from "../../support/in-process-target.ts";
import { exported, HOST, NQN, type Export } from "../host/export-scenario.ts";
import { ask, PATIENT } from "../raw-rpc.ts";
import { simulator, type Simulator } from "./simulator.ts";

const BUSY = { code: -32603, message: "Device or resource busy" };
const OTHER = "nqn.2014-08.org.x:other";

type Scenario = AsyncDisposable & {
  readonly sim: Simulator;
  readonly one: Export;
  /** A client of the control socket of the process that runs now. */
  readonly control: () => Promise<Control>;
};

async function scenario(): Promise<Scenario> {
  const stack = new AsyncDisposableStack();
  const sim = stack.use(await simulator());
  const one = await exported(sim.socketPath);
  const control = async () => await Control.open(join(sim.folder, "control"));
  return { sim, one, control, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

const addHost = (host: string) => ["nvmf_subsystem_add_host", { nqn: NQN, host }] as const;

describe("a method that is to fail", () => {
  it("fails once and without effect, then succeeds", async () => {
    await using setup = await scenario();
    await using control = await setup.control();
    await control.ask({ op: "fail", method: "bdev_lvol_resize", ...BUSY });
    const resize = ["bdev_lvol_resize", { name: setup.one.lvol, size_in_mib: 16 }] as const;
    expect(await ask(setup.sim.socketPath, ...resize)).toMatchObject({ error: BUSY });
    expect(await setup.one.rpc("bdev_get_bdevs", { name: setup.one.lvol })).toMatchObject([
      { num_blocks: 2_048 },
    ]);
    expect(await ask(setup.sim.socketPath, ...resize)).toMatchObject({ result: true });
  });

  it("fails always where that is asked, and only for what it names", async () => {
    await using setup = await scenario();
    const { socketPath } = setup.sim;
    await using control = await setup.control();
    const which = { method: "nvmf_subsystem_add_host", with: OTHER, always: true };
    await control.ask({ op: "fail", ...which, code: -32603, message: "Internal error" });
    for (let times = 0; times < 3; times += 1) {
      expect(await ask(socketPath, ...addHost(OTHER))).toHaveProperty("error");
    }
    expect(await ask(socketPath, ...addHost("nqn.2014-08.org.x:third"))).toHaveProperty("result");
    await control.ask({ op: "clear_rules" });
    expect(await ask(socketPath, ...addHost(OTHER))).toHaveProperty("result");
  });

  it("can be a delete that fails halfway: the lvol is gone, and back after an attach", async () => {
    await using setup = await scenario();
    const { one } = setup;
    const lvol = await one.createLvol("w");
    await using control = await setup.control();
    const fault = { method: "bdev_lvol_delete", with: lvol, ...BUSY, half: true };
    await control.ask({ op: "fail", ...fault });
    const answer = await ask(setup.sim.socketPath, "bdev_lvol_delete", { name: lvol });
    expect(answer).toMatchObject({ error: BUSY });
    const names = async () => JSON.stringify(await one.rpc("bdev_lvol_get_lvols"));
    expect(await names()).not.toContain(lvol);
    await one.rpc("bdev_nvme_detach_controller", { name: "nvme0" });
    await one.attach();
    expect(await names()).toContain(lvol);
  });
});

describe("an answer", () => {
  it("that is lost leaves its effect", async () => {
    await using setup = await scenario();
    await using control = await setup.control();
    await control.ask({ op: "drop", method: "nvmf_subsystem_add_host", with: OTHER });
    void ask(setup.sim.socketPath, ...addHost(OTHER)).catch(() => {});
    const hosts = () => setup.one.rpc("nvmf_get_subsystems", { nqn: NQN });
    await expect.poll(hosts, PATIENT).toMatchObject([{ hosts: [{ nqn: OTHER }, { nqn: HOST }] }]);
    expect(await ask(setup.sim.socketPath, ...addHost(OTHER))).toHaveProperty("error");
  });

  it("that is late by some milliseconds is overtaken by others", async () => {
    await using setup = await scenario();
    const { socketPath } = setup.sim;
    await using control = await setup.control();
    await control.ask({ op: "delay", method: "nvmf_subsystem_add_host", with: OTHER, ms: 1_000 });
    const order: string[] = [];
    const answered = async (name: string, host: string) => {
      await ask(socketPath, ...addHost(host));
      order.push(name);
    };
    const late = answered("late", OTHER);
    await answered("other", "nqn.2014-08.org.x:third");
    await late;
    expect(order).toEqual(["other", "late"]);
  });

  it("of a slow change comes after its effect, which comes late", async () => {
    await using setup = await scenario();
    await using control = await setup.control();
    await control.ask({ op: "slow", method: "bdev_lvol_resize", with: setup.one.lvol, ms: 1_000 });
    const { socketPath } = setup.sim;
    const resizing = ask(socketPath, "bdev_lvol_resize", { name: setup.one.lvol, size_in_mib: 16 });
    const size = () => setup.one.rpc("bdev_get_bdevs", { name: setup.one.lvol });
    expect(await size()).toMatchObject([{ num_blocks: 2_048 }]);
    expect(await resizing).toMatchObject({ result: true });
    expect(await size()).toMatchObject([{ num_blocks: 4_096 }]);
  });
});

describe("a disk that is late", () => {
  it("is listed as a controller before its store is loaded, also after a restart", async () => {
    await using setup = await scenario();
    const { one, sim } = setup;
    {
      await using control = await setup.control();
      await control.ask({ op: "late_disk", serial: "SIM0", attach_ms: 1_000, load_ms: 1_000 });
    }
    await sim.restart();
    const order: string[] = [];
    const attaching = one.attach().then(() => order.push("attach"));
    // An attach that is still connecting is unknown to it.
    expect(await one.rpc("bdev_wait_for_examine")).toBe(true);
    expect(await one.rpc("bdev_nvme_get_controllers")).toEqual([]);
    const controllers = () => one.rpc("bdev_nvme_get_controllers");
    await expect.poll(controllers, PATIENT).toMatchObject([{ name: "nvme0" }]);
    expect(await one.rpc("bdev_lvol_get_lvstores")).toEqual([]);
    expect(await one.rpc("bdev_get_bdevs")).toMatchObject([{ name: "nvme0n1", claimed: false }]);
    const examined = one.rpc("bdev_wait_for_examine").then(() => order.push("examine"));
    await Promise.all([attaching, examined]);
    expect(await one.rpc("bdev_lvol_get_lvstores")).toMatchObject([{ name: "lvs0" }]);
    expect(order).toHaveLength(2);
  });

  it("takes a new store over the one that is not loaded yet, which a strict target aborts on", async () => {
    const make = { bdev_name: "nvme0n1", lvs_name: "other" };
    await using target = await inProcessTarget({ strict: false });
    const one = await exported(target.socket);
    for (const disk of target.state().disks) disk.setLate({ attachMs: 0, loadMs: 1_000 });
    await one.rpc("bdev_nvme_detach_controller", { name: "nvme0" });
    const attaching = one.attach();
    await expect.poll(() => one.rpc("bdev_get_bdevs"), PATIENT).toMatchObject([{ claimed: false }]);
    await one.rpc("bdev_lvol_create_lvstore", make);
    await attaching;
    expect(await one.rpc("bdev_lvol_get_lvols")).toEqual([]);
    await using strict = await inProcessTarget();
    const two = await exported(strict.socket);
    for (const disk of strict.state().disks) disk.setLate({ attachMs: 0, loadMs: 1_000 });
    await two.rpc("bdev_nvme_detach_controller", { name: "nvme0" });
    void two.attach().catch(() => {});
    await expect.poll(() => two.rpc("bdev_get_bdevs"), PATIENT).toMatchObject([{ claimed: false }]);
    void two.rpc("bdev_lvol_create_lvstore", make).catch(() => {});
    await expect(strict.aborted).rejects.toThrow("while it is examined (strict)");
  });

  it("that is detached while its store is loaded ends the attach with an error", async () => {
    await using setup = await scenario();
    const { one } = setup;
    await using control = await setup.control();
    await control.ask({ op: "late_disk", load_ms: 1_000 });
    await one.rpc("bdev_nvme_detach_controller", { name: "nvme0" });
    const attaching = one.attach().catch((error: unknown) => String(error));
    const controllers = () => one.rpc("bdev_nvme_get_controllers");
    await expect.poll(controllers, PATIENT).toMatchObject([{ name: "nvme0" }]);
    await one.rpc("bdev_nvme_detach_controller", { name: "nvme0" });
    expect(await attaching).toContain("No such device");
    expect(await one.rpc("bdev_wait_for_examine")).toBe(true);
  });
});

it("an lvol that a test marked aborts the target at each add_ns, also after a restart", async () => {
  await using setup = await scenario();
  const { one, sim } = setup;
  const marked = await one.createLvol("w");
  {
    await using control = await setup.control();
    await control.ask({ op: "abort_on_add_ns", lvol: marked });
  }
  const add = async () => {
    await one.removeNamespace().catch(() => {});
    await one.addNamespace(marked);
  };
  for (let times = 0; times < 2; times += 1) {
    await expect(add()).rejects.toThrow(/no answer|ECONNRESET/);
    expect(await sim.ended()).toMatchObject({
      code: 70,
      stderr: expect.stringContaining("which a test marked to abort"),
    });
    await sim.restart();
    await one.exportAgain();
  }
  await using control = await setup.control();
  await control.ask({ op: "abort_on_add_ns", lvol: marked, set: false });
  await add();
});

it("an in-process target that aborts loses its clients and hosts, and can abort again", async () => {
  await using target = await inProcessTarget();
  const one = await exported(target.socket);
  const lvol = target.state().lvol(one.lvol);
  lvol?.store.base.disk.setTrap(one.lvol, true);
  target.state().flush();
  await one.removeNamespace();
  await expect(one.addNamespace()).rejects.toThrow(/no answer|ECONNRESET/);
  await target.restart();
  await expect(one.exportAgain()).rejects.toThrow(/no answer|ECONNRESET/);
  expect(target.aborts()).toBe(2);
});
