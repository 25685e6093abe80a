// A saved configuration brings back exports without their agent, as SPDK's --config does.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { SimulatedHost } from "../../../src/sim/host/simulated-host.ts";
import { runSimulator } from "../../../src/sim/simulator.ts";
import { saveConfig } from "../../../src/sim/target/config-file.ts";
import { Disk } from "../../../src/sim/target/media.ts";
import { releaseNamed } from "../../../src/sim/target/release.ts";
import { Control } from "../../support/control.ts";
import { inProcessTarget } from "../../support/in-process-target.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";
import { ADDRESS, exported, HOST, NQN } from "../host/export-scenario.ts";
import { call } from "../raw-rpc.ts";
import { simulator } from "./simulator.ts";

const MARK = "nqn.2026-11.io.test:owner:mark";

describe("framework_get_config", () => {
  it("lists what makes the exports: transport, subsystem, host, namespace, listener last", async () => {
    await using target = await inProcessTarget();
    const one = await exported(target.socket, { subsystem: { dmrsl: 128 } });
    const listener = { trtype: "TCP", adrfam: "IPv4", ...ADDRESS };
    expect(await one.rpc("framework_get_config", { name: "nvmf" })).toMatchObject([
      { method: "nvmf_set_max_subsystems" },
      { method: "nvmf_create_transport", params: { trtype: "TCP" } },
      { method: "nvmf_create_subsystem", params: { nqn: NQN, dmrsl: 128 } },
      { method: "nvmf_subsystem_add_host", params: { nqn: NQN, host: HOST } },
      { method: "nvmf_subsystem_add_ns", params: { namespace: { bdev_name: one.lvol } } },
      { method: "nvmf_subsystem_add_listener", params: { nqn: NQN, listen_address: listener } },
    ]);
    expect(await one.rpc("framework_get_config", { name: "bdev" })).toMatchObject([
      { method: "bdev_nvme_attach_controller", params: { name: "nvme0", trsvcid: "9000" } },
      { method: "bdev_wait_for_examine" },
    ]);
  });
});

describe("a target that starts with a saved configuration", () => {
  it("serves the same exports and marks, and hosts go on without an agent", async () => {
    await using folder = await temporaryFolder();
    const configPath = join(folder.path, "config.json");
    await using target = await inProcessTarget();
    const one = await exported(target.socket);
    await one.rpc("nvmf_create_subsystem", { nqn: MARK, serial_number: "OWNER" });
    const times = { reconnectDelayMs: 10, ctrlLossTmoMs: 60_000 };
    const { fabric } = target;
    using host = new SimulatedHost({ fabric, host: HOST, nqn: NQN, address: ADDRESS, ...times });
    host.start();
    await host.until(() => host.device !== undefined);
    await host.write(0, Buffer.alloc(512, 3));
    const before = await one.rpc("nvmf_get_subsystems");
    saveConfig(target.state(), configPath);
    await target.restart({ configPath });
    expect(await one.rpc("nvmf_get_subsystems")).toEqual(before);
    expect(await host.verify()).toEqual([]);
    expect(host.counters).toMatchObject({ errors: 0, lostDevices: 0 });
  });

  it("ends at once when a method of it is refused", async () => {
    await using folder = await temporaryFolder();
    const configPath = join(folder.path, "config.json");
    const config = [
      { method: "bdev_wait_for_examine" },
      { method: "nvmf_create_subsystem", params: { nqn: "none" } },
    ];
    const subsystems = [
      { subsystem: "sock", config: null },
      { subsystem: "nvmf", config },
    ];
    writeFileSync(configPath, JSON.stringify({ subsystems }));
    const reasons: string[] = [];
    const code = await runSimulator({
      socketPath: join(folder.path, "s"),
      controlPath: undefined,
      root: undefined,
      pollMs: 1,
      maxSubsystems: 1_024,
      release: releaseNamed("26.09"),
      strict: false,
      configPath,
      disks: [],
      signal: new AbortController().signal,
      onListening: () => reasons.push("listening"),
      onAbort: (reason) => reasons.push(reason),
    });
    expect(code).toBe(1);
    expect(reasons).toEqual([expect.stringContaining("Unable to create subsystem none")]);
  });

  it("can be run from the file that a simulator process saved", async () => {
    await using sim = await simulator();
    const one = await exported(sim.socketPath);
    const configPath = join(sim.folder, "config.json");
    await using control = await Control.open(join(sim.folder, "control"));
    await control.ask({ op: "save_config", file: configPath });
    expect(readFileSync(configPath, "utf8")).toContain(one.lvol);
    const stop = new AbortController();
    await using folder = await temporaryFolder();
    const socketPath = join(folder.path, "s");
    const listening = Promise.withResolvers<void>();
    const [facts] = sim.disks;
    const disk = {
      serial: "SIM0",
      id: "SIM0",
      nsid: 1,
      model: "M",
      blockSize: 4_096,
      numBlocks: 262_144,
      prefill: 0,
      trtype: "TCP",
      traddr: "127.0.0.1",
      unmap: "keeps" as const,
      trsvcid: facts?.["trsvcid"],
      subnqn: facts?.["subnqn"],
    };
    const ended = runSimulator({
      socketPath,
      controlPath: undefined,
      root: undefined,
      pollMs: 1,
      maxSubsystems: 1_024,
      release: releaseNamed("26.09"),
      strict: true,
      configPath,
      disks: [new Disk(disk, join(sim.folder, "state"))],
      signal: stop.signal,
      onListening: listening.resolve,
      onAbort: (reason) => listening.reject(new Error(reason)),
    });
    await listening.promise;
    expect(await call(socketPath, "nvmf_get_subsystems", { nqn: NQN })).toMatchObject([
      { namespaces: [{ uuid: one.lvol }], hosts: [{ nqn: HOST }] },
    ]);
    stop.abort();
    expect(await ended).toBe(0);
  });
});
