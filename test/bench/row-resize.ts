// Time to grow many volumes at once until the last one has its size, compared with the same calls
// pipelined by hand plus bulk writes of the rows plus as many gRPC echoes.
import { ResizeLvolResponse } from "../../src/gen/storagenode/v1/storage_node.ts";
import { getLvol, resize } from "../support/volumes.ts";
import { VOLUME_BYTES } from "./bench-node.ts";
import { ByHand } from "./by-hand.ts";
import { startEcho } from "./echo.ts";
import { inTurns, spread, timed } from "./measure.ts";
import { lineOf, type Row } from "./row.ts";

/** Of all clusters that a disk of that size may have. */
const CLUSTER = 64n * 1024n ** 2n;

export const resizeRow: Row = {
  name: "resize",
  async run({ sizes, pairs, warmUps, startNode }) {
    const count = sizes.volumes;
    await using node = await startNode();
    await using hand = await ByHand.open(node);
    const ids = await node.provision(count);
    const lvol = await getLvol(node.agent, ids[0] ?? "");
    const answer = ResizeLvolResponse.encode({ lvol }).finish();
    await using echo = await startEcho({ ResizeLvol: answer });
    const cpu: number[] = [];
    let ourBytes = VOLUME_BYTES;
    const ours = async () => {
      ourBytes += CLUSTER;
      const before = node.agent.cpuMs();
      const ms = await timed(async () => {
        const grown = await Promise.all(ids.map((id) => resize(node.agent, id, ourBytes)));
        const small = grown.filter(({ status }) => (status?.sizeBytes ?? 0n) < ourBytes);
        if (small.length > 0) throw new Error(`${small.length} volumes have not grown`);
      });
      cpu.push(node.agent.cpuMs() - before);
      return ms;
    };
    const limit = async () => {
      // Made for each turn: to the agent they are orphans, which it counts in each of its own.
      const volumes = hand.names(count);
      await hand.makeOnTarget(volumes);
      await hand.insertRows(volumes);
      const bytes = VOLUME_BYTES + CLUSTER;
      const ms = await timed(async () => {
        await hand.grow(volumes, bytes);
        // The intents, and what became of them.
        await hand.updateRows(volumes);
        await hand.updateRows(volumes);
        await Promise.all(ids.map((id) => resize(echo, id, bytes)));
      });
      await hand.removeFromTarget(volumes);
      await hand.deleteRows();
      return ms;
    };
    const taken = await inTurns({ pairs, warmUps, ours, limit });
    const what = `${count} volumes grown at once`;
    return {
      lines: [
        lineOf(taken, { what, unit: "ms", goal: { kind: "at most", value: 1.5 } }),
        { what: `${what}: agent's CPU time`, unit: "ms", ours: spread(cpu.slice(warmUps)) },
      ],
      notes: [],
      raw: { pairs: taken, agentCpuMs: cpu },
    };
  },
};
