// Time to provision many volumes at once until the last one is UP, compared with the same SPDK
// calls pipelined by hand plus bulk writes of the rows plus as many gRPC echoes; and with one call
// after another.
import { ProvisionLvolResponse } from "../../src/gen/storagenode/v1/storage_node.ts";
import { getLvol, provision } from "../support/volumes.ts";
import { VOLUME_BYTES, type BenchNode } from "./bench-node.ts";
import { ByHand } from "./by-hand.ts";
import { startEcho, type Echo } from "./echo.ts";
import { inTurns, spread, timed } from "./measure.ts";
import { lineOf, type Row } from "./row.ts";

export const provisionRow: Row = {
  name: "provision",
  async run({ sizes, pairs, warmUps, startNode }) {
    const count = sizes.volumes;
    await using node = await startNode();
    await using hand = await ByHand.open(node);
    await using echo = await provisionEcho(node);
    const parts: object[] = [];
    const cpu: number[] = [];
    const ours = async () => {
      const before = { cpu: node.agent.cpuMs(), writes: await node.writes() };
      let ids: readonly string[] = [];
      const ms = await timed(async () => (ids = await node.provision(count)));
      const agentCpuMs = node.agent.cpuMs() - before.cpu;
      cpu.push(agentCpuMs);
      parts.push({ ms, agentCpuMs, transactions: (await node.writes()) - before.writes });
      await node.remove(ids);
      return ms;
    };
    const limit = async () => {
      const volumes = hand.names(count);
      const spdkMs = await timed(() => hand.makeOnTarget(volumes));
      const rowsMs =
        (await timed(() => hand.insertRows(volumes))) +
        (await timed(() => hand.updateRows(volumes)));
      const echoMs = await timed(() => echoes(echo, count));
      parts.push({ spdkMs, rowsMs, echoMs });
      await hand.removeFromTarget(volumes);
      await hand.deleteRows();
      return spdkMs + rowsMs + echoMs;
    };
    const sequential: number[] = [];
    const between = async () => {
      const volumes = hand.names(sizes.sequential);
      const ms = await timed(() => hand.makeInSequence(volumes));
      sequential.push((ms / volumes.length) * count);
      await hand.removeFromTarget(volumes);
    };
    const taken = await inTurns({ pairs, warmUps, ours, limit, between });
    const slow = sequential.slice(warmUps);
    const times = taken.map(({ ours }, index) => (slow[index] ?? Number.NaN) / ours);
    return {
      lines: [
        lineOf(taken, {
          what: `${count} volumes at once, all UP`,
          unit: "ms",
          goal: { kind: "at most", value: 1.5 },
        }),
        {
          what: `${count} volumes at once: agent's CPU time`,
          unit: "ms",
          ours: spread(cpu.slice(warmUps)),
        },
        {
          what: `${count} volumes: as fast as one call after another, times`,
          unit: "ms",
          ours: spread(taken.map(({ ours }) => ours)),
          limit: spread(slow),
          ratio: spread(times),
          goal: { kind: "at least", value: 20 },
        },
      ],
      notes: [
        `one call after another: ${sizes.sequential} volumes after each pair, extrapolated to ${count}`,
        "deleted volumes leave tombstones: their number grows with each pair",
      ],
      raw: { pairs: taken, parts, sequentialMs: slow },
    };
  },
};

/** Starts an echo server that answers ProvisionLvol with an answer of the agent. */
async function provisionEcho(node: BenchNode): Promise<Echo> {
  const [id = ""] = await node.provision(1);
  const lvol = await getLvol(node.agent, id);
  await node.remove([id]);
  return await startEcho({ ProvisionLvol: ProvisionLvolResponse.encode({ lvol }).finish() });
}

async function echoes(echo: Echo, count: number): Promise<void> {
  const asked = Array.from({ length: count }, () => provision(echo, { sizeBytes: VOLUME_BYTES }));
  await Promise.all(asked);
}
