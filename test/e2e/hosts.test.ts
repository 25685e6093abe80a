// Hosts that use volumes while the target, the agent and the database are killed under them. A host
// that may use a volume never loses its block device and never gets an I/O error; a host that was
// revoked is never let in again.
import { describe, expect, it } from "vitest";
import { refusal, until } from "../support/agent.ts";
import { BusyHost } from "../support/busy-host.ts";
import { crashScenario, exactly, onTarget, type CrashScenario } from "../support/crash-scenario.ts";
import { hostsThroughRestarts } from "../support/hosts-through-restarts.ts";
import { getLvol, HOST, idOf, provision, remove, stateOf } from "../support/volumes.ts";

const HOSTS = 50;
const RESTARTS = 50;

describe("hosts that write all the time", () => {
  it("keep their devices through 50 restarts of the target, and revoked ones stay out", async () => {
    const seen = await hostsThroughRestarts({ restarts: RESTARTS, hosts: HOSTS });
    expect(seen).toMatchObject({
      hosts: Array.from({ length: HOSTS }, () => ({ reconnects: RESTARTS })),
      harm: [],
      letInAgain: [],
    });
  }, 180_000);
});

type OneHost = AsyncDisposable & {
  readonly scenario: CrashScenario;
  readonly host: BusyHost;
  readonly id: string;
};

async function oneHost(
  options: { readonly graceS?: number; readonly reconnectDelayMs?: number } = {},
): Promise<OneHost> {
  const stack = new AsyncDisposableStack();
  const { graceS = 0.2, reconnectDelayMs } = options;
  const env = { STORAGE_NODE_RECONNECT_GRACE: String(graceS) };
  const scenario = stack.use(await crashScenario({}, { env }));
  const agent = await scenario.start();
  await agent.ready();
  const lvol = await provision(agent, { sizeBytes: 64n * 1024n ** 2n });
  const { fabric } = scenario.target;
  const nqn = lvol.status?.nqn ?? "";
  const host = stack.use(await BusyHost.connect({ fabric, host: HOST, nqn, reconnectDelayMs }));
  return { scenario, host, id: idOf(lvol), [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

describe("Delete of a volume with a host", () => {
  it("while the target is down keeps the device until the host disconnects", async () => {
    await using setup = await oneHost();
    const { scenario, host, id } = setup;
    await scenario.target.kill();
    expect(await remove(scenario.agent(), id, { wait: false })).toEqual({ done: false });
    await scenario.target.restart();
    await host.writesAgain();
    expect(await getLvol(scenario.agent(), id)).toMatchObject({
      status: { state: "LVOL_STATE_DELETING" },
    });
    expect(await host.stop()).toEqual([]);
    await until("the volume is deleted", async () => {
      return stateOf(await getLvol(scenario.agent(), id)) === "LVOL_STATE_DELETED";
    });
    expect(onTarget(scenario)).toEqual(exactly([]));
  });

  it("right after a restart waits for hosts that may come back", async () => {
    await using setup = await oneHost({ graceS: 3, reconnectDelayMs: 1_000 });
    const { scenario, host, id } = setup;
    await scenario.target.restart();
    const { agent } = scenario.agent().node;
    await until("the volume is exported again", () => agent.rows.lvol(id)?.exported === true);
    expect(await remove(scenario.agent(), id, { wait: false })).toEqual({ done: false });
    await host.writesAgain();
    await host.writesAgain();
    expect(host).toMatchObject({ connected: true, hasDevice: true });
    expect(await host.stop()).toEqual([]);
  });

  it("is refused while the host is connected, which notices nothing", async () => {
    await using setup = await oneHost();
    const { scenario, host, id } = setup;
    expect(await refusal(remove(scenario.agent(), id))).toMatchObject({ reason: "IN_USE" });
    await host.writesAgain();
    expect(await host.stop()).toEqual([]);
    expect(host.counters).toMatchObject({ reconnects: 0 });
  });

  it("with force fails its I/O at once, takes the device away and ends", async () => {
    await using setup = await oneHost();
    const { scenario, host, id } = setup;
    const gone = host.loses();
    const deleted = remove(scenario.agent(), id, { force: true, reason: "retired" });
    await gone;
    expect(await deleted).toEqual({ done: true });
    expect(onTarget(scenario)).toEqual(exactly([]));
    await until("its I/O has failed", () => host.counters.errors > 0);
  });
});
