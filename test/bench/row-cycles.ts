// What is left in the agent's memory of volumes that were made and deleted: nothing that grows with their
// number, once it keeps as many rows of deleted volumes as it ever does.
import { TOMBSTONES } from "../../src/limits.ts";
import { spread } from "./measure.ts";
import type { Row } from "./row.ts";

const AT_A_TIME = 200;
/** Cycles after which everything has its full size: rows of deleted volumes, caches, buffers. */
const WARM = 2 * TOMBSTONES;

type Memory = { readonly cycles: number; readonly heapMib: number; readonly rssMib: number };

export const cyclesRow: Row = {
  name: "cycles",
  async run({ sizes, startNode, say }) {
    await using node = await startNode();
    const taken: Memory[] = [];
    const every = Math.min(WARM, sizes.cycles / 2);
    const startMs = performance.now();
    for (let cycles = 0; cycles < sizes.cycles;) {
      const ids = await node.provision(Math.min(AT_A_TIME, every));
      await node.remove(ids);
      cycles += ids.length;
      if (cycles % every !== 0) continue;
      const { heapUsed, external, rss } = await node.agent.memory();
      taken.push({ cycles, heapMib: mib(heapUsed + external), rssMib: mib(rss) });
      say(`${cycles} cycles: ${mib(heapUsed + external)} MiB heap, ${mib(rss)} MiB resident`);
    }
    const [warm, ...later] = taken;
    const growth = (of: (one: Memory) => number) =>
      spread(later.map((one) => of(one) - (warm === undefined ? Number.NaN : of(warm))));
    return {
      lines: [
        {
          what: `${sizes.cycles} volumes made and deleted: heap, against that after ${every}`,
          unit: "MiB",
          ours: growth(({ heapMib }) => heapMib),
          goal: { kind: "at most", value: 2 },
        },
        { what: "the same: resident memory", unit: "MiB", ours: growth(({ rssMib }) => rssMib) },
      ],
      notes: [`${((performance.now() - startMs) / sizes.cycles).toFixed(1)} ms a cycle`],
      raw: { taken },
    };
  },
};

function mib(bytes: number): number {
  return Math.round(bytes / 1_024 / 102.4) / 10;
}
