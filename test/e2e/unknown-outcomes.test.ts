// The answer to one change is lost while the connection lives: everything converges all the same, no call
// answers before it is true, and only what may be sent twice is.
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { StorageNodeClient } from "../../src/gen/storagenode/v1/storage_node.ts";
import { call, refusal, startAgent, until, type TestAgent } from "../support/agent.ts";
import { testDatabase } from "../support/database.ts";
import { explainVolume } from "../support/explain.ts";
import { inProcessTarget, type InProcessTarget } from "../support/in-process-target.ts";
import { SocketProxy } from "../support/socket-proxy.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { getSnapshot, snapshotIdOf, takeSnapshot } from "../support/snapshots.ts";
import { getLvol, HOST, idOf, provision, remove, stateOf, WAIT } from "../support/volumes.ts";

const OTHER = `${HOST.slice(0, -1)}2`;
const REPEATABLE = [
  "nvmf_subsystem_add_host",
  "nvmf_subsystem_remove_host",
  "nvmf_subsystem_allow_any_host",
  "nvmf_subsystem_add_listener",
  "nvmf_subsystem_remove_listener",
];
const SIZE = 64n * 1024n * 1024n;

let stack: AsyncDisposableStack;
let target: InProcessTarget;
let agent: TestAgent;
let proxy: SocketProxy;

beforeEach(async () => {
  stack = new AsyncDisposableStack();
  const database = stack.use(await testDatabase());
  target = stack.use(await inProcessTarget({}));
  const folder = stack.use(await temporaryFolder());
  proxy = stack.use(await SocketProxy.open(join(folder.path, "s"), target.socket));
  const { fabricDisks } = target;
  const timing = { nvmfWaitMs: 150, repeatMs: 300, graceMs: 60_000 };
  const through = { socket: join(folder.path, "s"), fabricDisks };
  agent = stack.use(await startAgent({ url: database.url, target: through, timing }));
  await agent.ready();
});

afterEach(async () => {
  await stack.disposeAsync();
});

const lose = (method: string, always = false) =>
  target.engine().gate.addRule({ effect: "drop", method, nth: 1, always });

const sent = (method: string) => target.engine().gate.counts[method] ?? 0;

const make = () => provision(agent, { sizeBytes: SIZE }, { wait: false });

function host(
  { client }: { readonly client: StorageNodeClient },
  kind: "allowHost" | "revokeHost",
  lvolId: string,
  { hostNqn = OTHER, wait = true }: { readonly hostNqn?: string; readonly wait?: boolean } = {},
) {
  const waitTimeout = wait ? WAIT : undefined;
  const request = { lvolId, hostNqn, waitTimeout, deferred: false };
  return call(client, client[kind].bind(client), request);
}

const subsystemOf = (id: string) =>
  [...target.state().subsystems.values()].find(({ nqn }) => nqn.endsWith(id));

const hostsOnTarget = (id: string) => [...(subsystemOf(id)?.hosts ?? [])];

async function up(id: string): Promise<void> {
  await until(`volume ${id} is UP with nothing unknown`, async () => {
    const lvol = await getLvol(agent, id);
    const unknown = lvol.status?.conditions.some(({ type }) => type === "OutcomeUnknown");
    return stateOf(lvol) === "LVOL_STATE_UP" && unknown === false;
  });
}

const resolve = (objectId: string, reason: string) =>
  call(agent.client, agent.client.resolveOutcome.bind(agent.client), { objectId, reason });

describe("the lost answer of", () => {
  it.each([
    "nvmf_create_subsystem",
    "nvmf_subsystem_add_host",
    "nvmf_subsystem_add_ns",
    "nvmf_subsystem_add_listener",
  ])("%s keeps no volume from coming UP", async (method) => {
    target.engine().gate.resetCounts();
    lose(method);
    const id = idOf(await make());
    await up(id);
    expect(subsystemOf(id)?.listeners).toHaveLength(1);
    expect(hostsOnTarget(id)).toEqual([HOST]);
    if (!REPEATABLE.includes(method)) expect(sent(method)).toBe(1);
    expect(sent("bdev_lvol_create")).toBe(1);
  });

  it("nvmf_subsystem_remove_host ends RevokeHost only when the host is out", async () => {
    const id = idOf(await make());
    await up(id);
    lose("nvmf_subsystem_remove_host");
    await host(agent, "revokeHost", id, { hostNqn: HOST });
    expect(hostsOnTarget(id)).toEqual([]);
    await up(id);
  });

  it("nvmf_subsystem_add_host that comes late does not end a RevokeHost early", async () => {
    const id = idOf(await make());
    await up(id);
    const rule = { effect: "delay", method: "nvmf_subsystem_add_host", nth: 1, ms: 1_000 } as const;
    target.engine().gate.addRule(rule);
    await host(agent, "allowHost", id, { wait: false });
    await until("its answer is lost", async () => (await unknownOf(id)) !== undefined);
    await host(agent, "revokeHost", id);
    expect(hostsOnTarget(id)).toEqual([HOST]);
    await up(id);
    expect(hostsOnTarget(id)).toEqual([HOST]);
  });

  it("nvmf_delete_subsystem ends the volume all the same, with one delete of each", async () => {
    const id = idOf(await make());
    await up(id);
    target.engine().gate.resetCounts();
    lose("nvmf_delete_subsystem");
    expect(await remove(agent, id)).toEqual({ done: true });
    expect(subsystemOf(id)).toBeUndefined();
    expect(sent("nvmf_delete_subsystem")).toBe(1);
    expect(sent("bdev_lvol_delete")).toBe(1);
  });
});

/** The outcome that is unknown of an object, as its conditions say. */
async function unknownOf(id: string): Promise<string | undefined> {
  const { client } = agent;
  const disk = agent.node.agent.rows.disk(id) !== undefined;
  const conditions = disk
    ? (await call(client, client.getDisk.bind(client), { diskId: id })).disk?.status?.conditions
    : (await getLvol(agent, id)).status?.conditions;
  return conditions?.find(({ type }) => type === "OutcomeUnknown")?.message;
}

describe("a change whose outcome stays unknown", () => {
  it("of a subsystem is shown and explained, until ResolveOutcome answers its method", async () => {
    const id = idOf(await make());
    await up(id);
    for (const method of REPEATABLE) lose(method, true);
    const allowed = host(agent, "allowHost", id);
    await until("it is shown", async () => (await unknownOf(id))?.includes("add_host") === true);
    const { summary } = await explainVolume(agent, id);
    expect(summary).toContain("nvmf_subsystem_add_host was sent and not answered since");
    expect(summary).toContain("ResolveOutcome");
    expect(await refusal(resolve(id, " "))).toMatchObject({ reason: "INVALID_FIELD" });
    expect(await refusal(resolve(randomUUID(), "gone"))).toMatchObject({ reason: "NOT_FOUND" });
    target.engine().gate.clear();
    const { requests } = await resolve(id, "the target's log says so");
    expect(new Set(requests)).toEqual(new Set(["nvmf_subsystem_add_host"]));
    await allowed;
    expect(hostsOnTarget(id).toSorted()).toEqual([HOST, OTHER]);
    await up(id);
  });

  it.each(["resolved", "over after a restart of the target"])(
    "of an lvol is shown and keeps it from being changed, until it is %s",
    async (how) => {
      const id = idOf(await make());
      await up(id);
      target.engine().gate.resetCounts();
      lose("bdev_lvol_delete");
      const gone = remove(agent, id);
      await until("it was sent", () => sent("bdev_lvol_delete") === 1);
      proxy.drop();
      await until("it is shown", async () => (await unknownOf(id))?.includes("delete") === true);
      expect(sent("bdev_lvol_delete")).toBe(1);
      if (how === "resolved") {
        expect(await resolve(id, "seen")).toEqual({ requests: ["bdev_lvol_delete"] });
      } else await target.restart();
      expect(await gone).toEqual({ done: true });
    },
  );

  it("of a snapshot is shown and explained, until ResolveOutcome answers its method", async () => {
    const source = idOf(await make());
    await up(source);
    target.engine().gate.resetCounts();
    lose("bdev_lvol_snapshot");
    const id = snapshotIdOf(await takeSnapshot(agent, source, { wait: false }));
    await until("it was sent", () => sent("bdev_lvol_snapshot") === 1);
    proxy.drop();
    await until("it is shown", async () => {
      const { conditions = [] } = (await getSnapshot(agent, id)).status ?? {};
      return conditions.some(({ type }) => type === "OutcomeUnknown");
    });
    const request = { target: { $case: "snapshotId", value: id } } as const;
    await until("it is explained, with its cure", async () => {
      const { client } = agent;
      const { summary } = await call(client, client.explain.bind(client), request);
      return summary.includes(`ResolveOutcome {"objectId": "${id}"`);
    });
    expect(await resolve(id, "seen")).toEqual({ requests: ["bdev_lvol_snapshot"] });
    await until("it is UP", async () => {
      return (await getSnapshot(agent, id)).status?.state === "SNAPSHOT_STATE_UP";
    });
    expect(sent("bdev_lvol_snapshot")).toBe(1);
  });

  it("of a disk is shown, until ResolveOutcome answers its method", async () => {
    const [disk = ""] = [...agent.node.agent.rows.disks()].map(({ id }) => id);
    await target.kill();
    await target.restart();
    lose("bdev_nvme_attach_controller");
    await until("it was sent", () => sent("bdev_nvme_attach_controller") === 1);
    proxy.drop();
    await until("it is shown", async () => (await unknownOf(disk))?.includes("attach") === true);
    expect(await resolve(disk, "seen")).toEqual({ requests: ["bdev_nvme_attach_controller"] });
    await agent.ready();
    expect(await unknownOf(disk)).toBeUndefined();
    expect(sent("bdev_nvme_attach_controller")).toBe(1);
  });
});
