// What hosts see after a restart of the target that left old bytes in free clusters: volumes that take
// clusters are held back until these are zeroed, if that is soon; else they are exported, and it is said what
// may be seen (docs/architecture.md#exports-held-back).
import { describe, expect, it } from "vitest";
import { Provisioning } from "../../src/gen/storagenode/v1/lvol.ts";
import { hostIo } from "../../src/sim/target/host-io.ts";
import { call, until, type TestAgent } from "../support/agent.ts";
import { crashScenario, tag, type CrashScenario } from "../support/crash-scenario.ts";
import { eventsOf } from "../support/events.ts";
import { idOf, provision, remove } from "../support/volumes.ts";

const CLUSTER = 4 * 1_048_576;
const SIZE = { sizeBytes: 16n * 1_048_576n };
const DOOMED = 0x77;
const OWN = 1;

type Volumes = { readonly thin: string; readonly thick: string };

/** A thin volume and a thick one, in a state in which a third was cut off while it was deleted. */
async function deleteCutOff(
  scenario: CrashScenario,
  env: Readonly<Record<string, string>>,
): Promise<Volumes & { readonly agent: TestAgent }> {
  const agent = await scenario.start({ env });
  await agent.ready();
  const doomed = await provision(agent, SIZE);
  tag(scenario, doomed.status?.lvolUuid ?? "", DOOMED, 4 * CLUSTER);
  const thin = await provision(agent, SIZE);
  const thick = await provision(agent, {
    ...SIZE,
    provisioning: Provisioning.PROVISIONING_THICK,
  });
  const { gate } = scenario.target.engine();
  const stopped = new Promise((resolve) => (gate.onStopped = resolve));
  gate.stopAt({ when: "midway", method: "bdev_lvol_delete", nth: 1 });
  await remove(agent, idOf(doomed), { wait: false });
  await stopped;
  return { agent, thin: thin.status?.nqn ?? "", thick: thick.status?.nqn ?? "" };
}

const textual = (_key: string, value: unknown) =>
  typeof value === "bigint" ? value.toString() : value;

function listens({ target }: CrashScenario, nqn: string): boolean {
  return (target.state().subsystems.get(nqn)?.listeners.length ?? 0) > 0;
}

/** What a host reads in a cluster into which it has written one page; undefined: it cannot connect. */
function seenAround(scenario: CrashScenario, nqn: string): readonly number[] | undefined {
  const { target } = scenario;
  const subsystem = target.state().subsystems.get(nqn);
  if (subsystem === undefined || !listens(scenario, nqn)) return undefined;
  const context = { target: target.state(), release: target.engine().release, subsystem };
  hostIo(context, { kind: "write", offset: 0, bytes: Buffer.alloc(4_096, OWN) });
  const read = hostIo(context, { kind: "read", offset: 0, length: 16_384 });
  return [...new Set(read)].toSorted((a, b) => a - b);
}

/** The first thing that a host of the volume reads, in the moment in which it can connect. */
async function firstSeen(scenario: CrashScenario, nqn: string) {
  let seen: readonly number[] | undefined;
  await until("the volume can be reached", () => {
    seen = seenAround(scenario, nqn);
    return seen !== undefined;
  });
  return seen;
}

async function diskConditions({ client }: TestAgent) {
  const page = { pageSize: 0, pageToken: "" };
  const { disks } = await call(client, client.listDisks.bind(client), page);
  return disks[0]?.status?.conditions ?? [];
}

async function reasonsOf(agent: TestAgent, type: string) {
  const { lvols } = await call(agent.client, agent.client.listLvols.bind(agent.client), {
    diskId: "",
    showDeleted: false,
    pageSize: 0,
    pageToken: "",
  });
  return lvols.flatMap(({ status }) =>
    (status?.conditions ?? []).filter((one) => one.type === type).map(({ reason }) => reason),
  );
}

/** Slices are zeroed so slowly that what happens meanwhile can be looked at. */
function zeroesSlowly({ target }: CrashScenario): void {
  const { gate } = target.engine();
  gate.addRule({ effect: "slow", method: "bdev_lvol_delete", nth: 12, ms: 1_500 });
}

describe("after a restart that left old bytes in free clusters", () => {
  it("a host sees none of them: its thin volume comes back once they are zeroed, a thick one at once", async () => {
    await using scenario = await crashScenario();
    const { agent, thin, thick } = await deleteCutOff(scenario, {});
    await scenario.target.restart();
    zeroesSlowly(scenario);
    await until("the thick volume is back", () => listens(scenario, thick));
    expect(listens(scenario, thin)).toBe(false);
    await until("it is said why", async () => {
      return (await reasonsOf(agent, "Waiting")).includes("EXPORT_HELD");
    });
    const asked = await call(agent.client, agent.client.getExport.bind(agent.client), {
      target: { $case: "nqn", value: thin },
      hostNqn: "",
    });
    expect(JSON.stringify(asked, textual)).toContain(
      "no host may connect before the free clusters",
    );
    expect(await firstSeen(scenario, thin)).toEqual([0, OWN]);
    const conditions = await diskConditions(agent);
    expect(conditions.find(({ type }) => type === "OldBytesExposed")).toBeUndefined();
  });

  it("a store that takes longer to load than the bound has its volumes held all the same", async () => {
    await using scenario = await crashScenario();
    const { thin } = await deleteCutOff(scenario, { STORAGE_NODE_ZEROING_HOLD: "3" });
    await scenario.target.restart();
    const method = "bdev_nvme_attach_controller";
    scenario.target.engine().gate.addRule({ effect: "slow", method, nth: 1, ms: 3_200 });
    expect(await firstSeen(scenario, thin)).toEqual([0, OWN]);
  });

  it.each<readonly [string, Readonly<Record<string, string>>]>([
    ["takes longer than the bound", { STORAGE_NODE_ZEROING_HOLD: "30" }],
    ["is not to be waited for", { STORAGE_NODE_ZEROING_HOLD: "never" }],
    ["is never asked for", { STORAGE_NODE_ZEROING: "manual" }],
  ])("exports it, and says what may be seen, where zeroing %s", async (_name, env) => {
    await using scenario = await crashScenario();
    const { thin } = await deleteCutOff(scenario, env);
    // A real disk: a byte per second in the first case.
    await scenario.killAgent();
    await scenario.query("update disk set zeroing_rate = 1");
    await scenario.target.restart();
    scenario.target
      .engine()
      .gate.addRule({ effect: "slow", method: "bdev_lvol_create", nth: 1, ms: 6_000 });
    const next = await scenario.start({ env });
    // The hole: bytes of the volume whose delete was cut off, around the host's own.
    expect(await firstSeen(scenario, thin)).toContain(DOOMED);
    await until("it is said", async () => {
      const exposed = (await diskConditions(next)).find(({ type }) => type === "OldBytesExposed");
      return exposed?.message.includes("may read bytes of deleted volumes") === true;
    });
    expect(await reasonsOf(next, "OldBytesExposed")).toEqual(["NotZeroed"]);
    // As the metrics show it.
    const { agent: shown } = next.node;
    const exposures = [...shown.rows.disks()].map((row) => shown.diskReadiness(row).exposure);
    expect(exposures).toEqual([{ reachable: 1, held: 0 }]);
    await until("there is an event of it", async () => {
      return (await eventsOf(next)).some(({ reason }) => reason === "OLD_BYTES_EXPOSED");
    });
  });

  it("what was estimated too short is held no longer than the bound", async () => {
    const env = { STORAGE_NODE_ZEROING_HOLD: "0.6" };
    await using scenario = await crashScenario();
    const { thin } = await deleteCutOff(scenario, env);
    await scenario.target.restart();
    const { gate } = scenario.target.engine();
    gate.addRule({
      effect: "slow",
      method: "bdev_lvol_delete",
      nth: 10,
      always: true,
      ms: 3_600_000,
    });
    await until("the volume can be reached", () => listens(scenario, thin));
    expect(scenario.agent().node.agent.rows.disks().next().value?.freeSpace).toBe("UNKNOWN");
    gate.clear();
  });

  it("always is as long as it takes", async () => {
    const env = { STORAGE_NODE_ZEROING_HOLD: "always" };
    await using scenario = await crashScenario();
    const { thin } = await deleteCutOff(scenario, env);
    await scenario.killAgent();
    await scenario.query("update disk set zeroing_rate = 1");
    await scenario.target.restart();
    zeroesSlowly(scenario);
    await scenario.start({ env });
    expect(await firstSeen(scenario, thin)).toEqual([0, OWN]);
  });
});
