// Discovery: its listeners, what it names to a host, and the warning where it has no listener.
import { join } from "node:path";
import { expect, it } from "vitest";
import { Control } from "../../support/control.ts";
import { ADDRESS, exported, HOST, NQN } from "../host/export-scenario.ts";
import { ask } from "../raw-rpc.ts";
import { simulator } from "./simulator.ts";

const DISCOVERY = "nqn.2014-08.org.nvmexpress.discovery";
const listener = (trsvcid = "4420") => ({
  nqn: DISCOVERY,
  listen_address: { trtype: "TCP", adrfam: "IPv4", traddr: "127.0.0.1", trsvcid },
});

it("the discovery subsystem takes a listener once and gives it back once", async () => {
  await using sim = await simulator();
  const one = await exported(sim.socketPath);
  const add = () => ask(sim.socketPath, "nvmf_subsystem_add_listener", listener());
  const remove = () => ask(sim.socketPath, "nvmf_subsystem_remove_listener", listener());
  const invalid = { error: { code: -32602, message: "Invalid parameters" } };
  expect(await add()).toMatchObject({ result: true });
  expect(await add()).toMatchObject(invalid);
  expect(await one.rpc("nvmf_get_subsystems", { nqn: DISCOVERY })).toMatchObject([
    { subtype: "Discovery", listen_addresses: [ADDRESS] },
  ]);
  expect(await one.rpc("nvmf_subsystem_get_listeners", { nqn: DISCOVERY })).toHaveLength(1);
  expect(await remove()).toMatchObject({ result: true });
  expect(await remove()).toMatchObject(invalid);
});

it("a discovery log names what listens at the address and allows the host; without a listener of its own each one warns", async () => {
  await using sim = await simulator();
  const one = await exported(sim.socketPath);
  await using control = await Control.open(join(sim.folder, "control"));
  const log = (host: string, trsvcid = "4420") =>
    control.ask({ op: "discovery_log", host, trsvcid });
  const warnings = () => control.ask({ op: "warnings" });
  expect(await log(HOST)).toEqual({ subsystems: [NQN] });
  expect(await warnings()).toEqual({ discovery: 1 });
  await one.rpc("nvmf_subsystem_add_listener", listener());
  expect(await log("nqn.2014-08.org.x:other")).toEqual({ subsystems: [] });
  await one.removeListener();
  expect(await log(HOST)).toEqual({ subsystems: [] });
  expect(await warnings()).toEqual({ discovery: 1 });
  await expect(log(HOST, "4421")).rejects.toThrow("nothing answers discovery at 127.0.0.1:4421");
});
