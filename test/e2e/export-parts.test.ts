// The parts of an export converge on their own: an address or a host that the target refuses keeps nobody
// else away, and says so.
import { describe, expect, it } from "vitest";
import { call, until, type TestAgent } from "../support/agent.ts";
import { BusyHost } from "../support/busy-host.ts";
import { crashScenario, settled, type CrashScenario } from "../support/crash-scenario.ts";
import { OverheardRequests } from "../support/overheard-requests.ts";
import { call as rawCall } from "../sim/raw-rpc.ts";
import { getLvol, HOST, idOf, provision, WAIT } from "../support/volumes.ts";

const SMALL = { sizeBytes: 64n * 1024n ** 2n };
/** No machine has it (RFC 5737). */
const DEAD = "192.0.2.9";
const OTHER_HOST = `${HOST.slice(0, -1)}2`;
const addresses = (list: string) => ({ env: { STORAGE_NODE_EXPORT_ADDR: list } });

function exported({ target }: CrashScenario, nqn: string) {
  const subsystem = target.state().subsystems.get(nqn);
  return {
    hosts: subsystem?.hosts.toSorted(),
    listeners: subsystem?.listeners.map(({ address }) => address.traddr),
    namespaces: subsystem?.namespaces.size,
  };
}

async function getExport({ client }: TestAgent, id: string) {
  const target = { $case: "lvolId" as const, value: id };
  const request = { target, hostNqn: HOST };
  return (await call(client, client.getExport.bind(client), request)).export;
}

const nqnOf = (lvol: Awaited<ReturnType<typeof provision>>) => lvol.status?.nqn ?? "";

describe("of two addresses one that cannot be had", () => {
  it("leaves the volume UP and exported on the other, and is named", async () => {
    await using scenario = await crashScenario({}, addresses(`127.0.0.1,${DEAD}`));
    const agent = await scenario.start();
    await agent.ready();
    const lvol = await provision(agent, SMALL);
    const [id, nqn] = [idOf(lvol), nqnOf(lvol)];
    const there = { listeners: ["127.0.0.1"], namespaces: 1 };
    expect(exported(scenario, nqn)).toEqual({ hosts: [HOST], ...there });
    const { status, meta } = await getLvol(agent, id);
    expect(status).toMatchObject({ state: "LVOL_STATE_UP", observedGeneration: meta?.generation });
    const missing = status?.conditions.find(({ type }) => type === "ListenerMissing");
    expect(missing?.message).toContain(DEAD);
    expect(await getExport(agent, id)).toMatchObject({
      ready: true,
      listeners: [
        { traddr: "127.0.0.1", listening: true, lastError: "" },
        { traddr: DEAD, listening: false, lastError: expect.stringContaining("-3260") },
      ],
    });
    // Nobody waits for the address.
    const { client } = agent;
    const request = { lvolId: id, hostNqn: OTHER_HOST, waitTimeout: WAIT };
    await call(client, client.allowHost.bind(client), request);
    expect(exported(scenario, nqn)).toEqual({ hosts: [HOST, OTHER_HOST], ...there });
    await until("the refusal of the address is recorded", async () => {
      const { meta: now, status: seen } = await getLvol(agent, id);
      return seen?.observedGeneration === now?.generation;
    });
  });
});

describe("an address that is refused again and again", () => {
  it("leaves the volume UP each time", async () => {
    const heard = new OverheardRequests();
    const { overhear } = heard;
    const { env } = addresses(`127.0.0.1,${DEAD}`);
    await using scenario = await crashScenario({}, { env, overhear });
    const agent = await scenario.start();
    await agent.ready();
    const id = idOf(await provision(agent, SMALL));
    heard.take();
    // Asked without a pause, so that no moment in between stays unseen.
    const states = new Set<string | undefined>();
    for (let tries = 0; tries < 3;) {
      states.add((await getLvol(agent, id)).status?.state);
      tries += heard.take().filter(({ method }) => method === "nvmf_subsystem_add_listener").length;
    }
    expect([...states]).toEqual(["LVOL_STATE_UP"]);
  });
});

describe("an address that is not configured any more", () => {
  it("goes once the new one is up, and hosts that use both notice nothing", async () => {
    const heard = new OverheardRequests();
    await using scenario = await crashScenario({}, { overhear: heard.overhear });
    const first = await scenario.start();
    await first.ready();
    const nqn = nqnOf(await provision(first, SMALL));
    await scenario.killAgent();
    heard.take();
    await scenario.start(addresses("127.0.0.2"));
    await until("the export has moved", () => {
      return exported(scenario, nqn).listeners?.join() === "127.0.0.2";
    });
    const moves = heard.take().filter(({ method }) => method.endsWith("_listener"));
    const ofExport = moves.filter(({ params }) => params?.["nqn"] === nqn);
    expect(ofExport.map(({ method }) => method)).toEqual([
      "nvmf_subsystem_add_listener",
      "nvmf_subsystem_remove_listener",
    ]);
  });
});

describe("a listener that somebody removes by hand", () => {
  it("is there again after the next full scan; the host goes on with the same device", async () => {
    await using scenario = await crashScenario();
    const agent = await scenario.start();
    await agent.ready();
    const nqn = nqnOf(await provision(agent, SMALL));
    const { fabric } = scenario.target;
    await using host = await BusyHost.connect({ fabric, host: HOST, nqn });
    const address = { trtype: "TCP", adrfam: "IPv4", traddr: "127.0.0.1", trsvcid: "4440" };
    const params = { nqn, listen_address: address };
    await rawCall(scenario.target.socket, "nvmf_subsystem_remove_listener", params);
    expect(host.connected).toBe(false);
    // A new connection begins with a full scan.
    scenario.loseConnection();
    await host.writesAgain();
    expect(await host.stop()).toEqual([]);
  });
});

describe("a host that the target refuses", () => {
  it("in a row of before keeps no other away after a restart, and RevokeHost takes it", async () => {
    await using scenario = await crashScenario();
    const agent = await scenario.start();
    await agent.ready();
    const lvol = await provision(agent, SMALL);
    const [id, nqn] = [idOf(lvol), nqnOf(lvol)];
    const bad = "nqn.2014-08.org.nvmexpress:uuid:h-1";
    await scenario.killAgent();
    await scenario.query(`update lvol set hosts = array['${bad}', '${HOST}'] where id = '${id}'`);
    await scenario.target.restart();
    const next = await scenario.start();
    await settled(scenario);
    await until("the export is there", () => exported(scenario, nqn).listeners?.length === 1);
    expect(exported(scenario, nqn)).toMatchObject({ hosts: [HOST], namespaces: 1 });
    const refused = (await getLvol(next, id)).status?.conditions.find(
      ({ type }) => type === "HostRefused",
    );
    expect(refused?.message).toContain(bad);
    expect(await getExport(next, id)).toMatchObject({ ready: true });
    const { client } = next;
    const request = { lvolId: id, hostNqn: bad, waitTimeout: WAIT };
    const { lvol: revoked } = await call(client, client.revokeHost.bind(client), request);
    expect(revoked?.spec?.allowedHostNqns).toEqual([HOST]);
    expect(revoked?.status?.conditions.some(({ type }) => type === "HostRefused")).toBe(false);
  });
});
