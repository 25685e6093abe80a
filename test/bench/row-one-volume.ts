// Time to provision one volume on a node with many, compared with the same SPDK calls and two
// commits by hand.
import type { BenchNode } from "./bench-node.ts";
import { ByHand } from "./by-hand.ts";
import { inTurns, spread, timed, type Pair } from "./measure.ts";
import { lineOf, type Row } from "./row.ts";

export const oneVolumeRow: Row = {
  name: "one-volume",
  async run({ sizes, pairs, warmUps, startNode }) {
    await using node = await startNode();
    await node.fillTo(sizes.volumes);
    const count = Math.max(pairs, sizes.singles);
    const turns = { pairs: count, warmUps: warmUps * 5 };
    const { taken, agentCpuMs } = await oneVolumeInTurns(node, turns);
    const what = `1 volume at ${sizes.volumes}, UP`;
    return {
      lines: [
        lineOf(taken, { what, unit: "ms", goal: { kind: "at most", value: 1.5 } }),
        { what: `${what}: agent's CPU time`, unit: "ms", ours: spread(agentCpuMs) },
      ],
      notes: [],
      raw: { pairs: taken, agentCpuMs },
    };
  },
};

/** Deletes each volume after its measurement: the size of the node stays the same. */
export async function oneVolumeInTurns(
  node: BenchNode,
  { pairs, warmUps }: { readonly pairs: number; readonly warmUps: number },
): Promise<{ readonly taken: readonly Pair[]; readonly agentCpuMs: readonly number[] }> {
  const agentCpuMs: number[] = [];
  await using hand = await ByHand.open(node);
  const ours = async () => {
    let ids: readonly string[] = [];
    const cpuBefore = node.agent.cpuMs();
    const ms = await timed(async () => (ids = await node.provision(1)));
    agentCpuMs.push(node.agent.cpuMs() - cpuBefore);
    await node.remove(ids);
    return ms;
  };
  const limit = async () => {
    const volumes = hand.names(1);
    const ms = await timed(async () => {
      await hand.insertRows(volumes);
      await hand.makeOnTarget(volumes);
      await hand.updateRows(volumes);
    });
    await hand.removeFromTarget(volumes);
    await hand.deleteRows();
    return ms;
  };
  const taken = await inTurns({ pairs, warmUps, ours, limit });
  return { taken, agentCpuMs: agentCpuMs.slice(warmUps) };
}
