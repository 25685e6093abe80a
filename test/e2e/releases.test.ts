// The agent on each SPDK release that the simulator implements.
import { describe, expect, it } from "vitest";
import { call, startAgent, until } from "../support/agent.ts";
import { testDatabase } from "../support/database.ts";
import { REAL_SOCKET, startTarget } from "../support/target.ts";
import { getLvol, idOf, provision, remove, stateOf } from "../support/volumes.ts";

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
    },
  );
});
