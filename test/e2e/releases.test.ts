// The agent on each SPDK release that the simulator implements.
import { describe, expect, it } from "vitest";
import { call, refusal, startAgent, until } from "../support/agent.ts";
import { crashScenario } from "../support/crash-scenario.ts";
import { testDatabase } from "../support/database.ts";
import { takeSnapshot } from "../support/snapshots.ts";
import { REAL_SOCKET, startTarget } from "../support/target.ts";
import {
  getLvol,
  GIB,
  idOf,
  provision,
  remove,
  resize,
  stateOf,
  update,
} from "../support/volumes.ts";

const SMALL = { sizeBytes: 16n * 1024n ** 2n };
const OTHER_HOST = "nqn.2014-08.org.nvmexpress:uuid:7c5d1e9a-0002-4000-8000-000000000002";
const SIMULATED = "in simulation (not run on a real target)";

describe.skipIf(REAL_SOCKET !== undefined)(`an agent over ${SIMULATED}`, () => {
  it.each(["24.01", "25.05", "26.01", "26.09"])(
    "SPDK %s creates, exports, changes, restores and deletes volumes",
    async (release) => {
      await using stack = new AsyncDisposableStack();
      const database = stack.use(await testDatabase());
      const target = stack.use(
        await startTarget({
          args: ["--release", release],
          // Nothing else keeps the hosts' discards of thin volumes from freeing clusters there.
          ...(release === "25.05" && { discardZeroes: true }),
        }),
      );
      const agent = stack.use(await startAgent({ url: database.url, target }));
      await agent.ready();
      const { client } = agent;
      const [kept, gone, lost] = await Promise.all(
        Array.from({ length: 3 }, () => provision(agent)),
      );
      if (kept === undefined || gone === undefined || lost === undefined) throw new Error("three");
      const waitTimeout = { seconds: 10n, nanos: 0 };
      const of = { lvolId: idOf(kept), hostNqn: OTHER_HOST, waitTimeout };
      await call(client, client.allowHost.bind(client), of);
      const hosts = async () =>
        (await target.spdk.getSubsystem(kept.status?.nqn ?? ""))?.hosts.length;
      expect(await hosts()).toBe(2);
      await call(client, client.revokeHost.bind(client), of);
      expect(await hosts()).toBe(1);
      expect(await remove(agent, idOf(gone))).toEqual({ done: true });

      const none = { rwIops: 0n, rwMibPerSecond: 0n, readMibPerSecond: 0n, writeMibPerSecond: 0n };
      const qos = { ...none, rwIops: 1_500n };
      const limited = await update(agent, idOf(kept), { qos });
      expect(limited.status?.qos).toEqual({ ...none, rwIops: 2_000n });
      const grown = await resize(agent, idOf(kept), 2n * GIB);
      expect([stateOf(grown), grown.status?.sizeBytes]).toEqual(["LVOL_STATE_UP", 2n * GIB]);

      const { lvolUuid = "", lvsUuid = "" } = agent.node.agent.rows.lvol(idOf(lost)) ?? {};
      await target.spdk.nvmfSubsystemRemoveNs({ nqn: lost.status?.nqn ?? "", nsid: 1 });
      await target.spdk.bdevLvolDelete({ lvsUuid, name: lvolUuid });
      await until("the volume whose lvol was deleted is DATA_MISSING", async () => {
        return stateOf(await getLvol(agent, idOf(lost))) === "LVOL_STATE_DATA_MISSING";
      });
      await target.restart();
      await until("the kept volume is exported again", async () => {
        const subsystem = await target.spdk.getSubsystem(kept.status?.nqn ?? "");
        return subsystem?.namespaces.length === 1 && subsystem.hosts.length === 1;
      });
      await until(
        "it is UP",
        async () => stateOf(await getLvol(agent, idOf(kept))) === "LVOL_STATE_UP",
      );
      expect((await target.spdk.bdevLvolGetLvols()).map(({ name }) => name)).toEqual([idOf(kept)]);
      const restored = await target.spdk.getBdev(kept.status?.lvolUuid ?? "");
      expect(restored).toMatchObject({ sizeBytes: 2n * GIB, rateLimits: { rwIosPerSec: 2_000n } });
    },
  );

  it.each([
    ["24.01", "TARGET_TOO_OLD"],
    ["25.05", undefined],
  ])("SPDK %s and a volume that has a snapshot: its growth is refused with %s", async (...is) => {
    const [release, reason] = is;
    await using stack = new AsyncDisposableStack();
    const database = stack.use(await testDatabase());
    const args = ["--release", release];
    const target = stack.use(await startTarget({ args, discardZeroes: true }));
    const timing = { eventsMs: 50 };
    const agent = stack.use(await startAgent({ url: database.url, target, timing }));
    await agent.ready();
    const made = await provision(agent);
    const { lvolUuid: name = "", lvsUuid = "" } = agent.node.agent.rows.lvol(idOf(made)) ?? {};
    await target.spdk.bdevLvolSnapshot({ lvsUuid, name, snapshotName: "somebody's" });
    // The intent is taken while the agent does not know of the snapshot; the step finds it.
    await resize(agent, idOf(made), 2n * GIB, { wait: false });
    const sizeReached = async () =>
      (await getLvol(agent, idOf(made))).status?.conditions.find(
        ({ type }) => type === "SizeReached",
      );
    if (reason === undefined) {
      await until("it has grown", async () => (await sizeReached())?.reason === "Seen");
      return;
    }
    await until("it says why it is not grown", async () => {
      return (await sizeReached())?.message.includes(reason) === true;
    });
    expect((await target.spdk.getBdev(name))?.sizeBytes).toBe(GIB);
    expect(await refusal(resize(agent, idOf(made), 3n * GIB))).toMatchObject({ code: 9, reason });
  });

  it("a clone on SPDK 24.01 is refused by the call; one that was taken before waits for a newer target", async () => {
    await using scenario = await crashScenario();
    const agent = await scenario.start();
    await agent.ready();
    const source = await provision(agent, SMALL);
    const snapshot = await takeSnapshot(agent, idOf(source));
    const cloned = { ...SMALL, sourceSnapshotId: snapshot.meta?.id ?? "" };
    await scenario.target.kill();
    const taken = await provision(agent, cloned, { wait: false });
    await scenario.target.restart({ release: "24.01" });
    const { client } = agent;
    const target = { $case: "lvolId" as const, value: idOf(taken) };
    await until("it says what it waits for", async () => {
      const { summary } = await call(client, client.explain.bind(client), { target });
      return summary.includes("is not made a clone: TARGET_TOO_OLD");
    });
    expect(stateOf(await getLvol(agent, idOf(taken)))).toBe("LVOL_STATE_CREATING");
    const refused = await refusal(provision(agent, cloned));
    expect(refused).toMatchObject({ code: 9, reason: "TARGET_TOO_OLD" });
    // A repeat of one that was taken is not a new one.
    await provision(agent, cloned, { id: idOf(taken), wait: false });
    await scenario.target.restart({ release: "26.09" });
    await until("it is made on a newer one", async () => {
      return stateOf(await getLvol(agent, idOf(taken))) === "LVOL_STATE_UP";
    });
  });
});
