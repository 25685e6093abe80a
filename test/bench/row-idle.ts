// Cost of an idle node with many volumes: CPU, full lists and written rows while no client calls.
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { NODE } from "../support/model.ts";
import type { BenchNode } from "./bench-node.ts";
import { spread } from "./measure.ts";
import type { Row } from "./row.ts";

/** PostgreSQL may update its statistics of a connection only after ten idle seconds. */
const SETTLE_MS = 12_000;

/** Not counted as a full list: its answer does not grow with the number of objects. */
const STATS = "nvmf_get_stats()";

export const idleRow: Row = {
  name: "idle",
  async run({ sizes, startNode }) {
    await using node = await startNode({ counted: true });
    await node.fillTo(sizes.volumes);
    await sleep(Math.min(SETTLE_MS, sizes.idleSeconds * 1_000));
    const before = await stateOf(node);
    node.proxies.reset();
    const startMs = performance.now();
    await sleep(sizes.idleSeconds * 1_000);
    const ms = performance.now() - startMs;
    const counts = node.proxies.counts();
    const after = await stateOf(node);
    const percent = (100 * (after.cpuMs - before.cpuMs)) / ms;
    const dumps = Object.entries(counts.calls)
      .filter(([method]) => /^(bdev|nvmf)_.*get_.*\(\)$/.test(method) && method !== STATS)
      .reduce((sum, [, count]) => sum + count, 0);
    // Lease renewals update the node row without a new revision, so they are not counted.
    const written = after.rowsWritten - before.rowsWritten;
    const atMost = (value: number) => ({ kind: "at most" as const, value });
    const of = `${Math.round(ms / 1_000)} s idle at ${sizes.volumes}`;
    const one = (value: number) => spread([value]);
    return {
      lines: [
        { what: `${of}: core used`, unit: "%", ours: one(percent), goal: atMost(1) },
        { what: `${of}: full lists`, unit: "calls", ours: one(dumps), goal: atMost(0) },
        {
          what: `${of}: rows written, no renewals`,
          unit: "rows",
          ours: one(written),
          goal: atMost(0),
        },
      ],
      notes: [
        `calls ${JSON.stringify(counts.calls)}, statements ${JSON.stringify(counts.statements)}`,
      ],
      raw: { ms, before, after, counts },
    };
  },
};

const written = z.object({ rows: z.number(), revision: z.number() });

async function stateOf(node: BenchNode) {
  const { rows } = await node.database.query(
    `select revision::int as revision, (select sum(n_tup_ins + n_tup_upd + n_tup_del)::int
       from pg_stat_user_tables where relname in ('lvol', 'disk')) as rows
     from node where node_id = $1`,
    [NODE],
  );
  const { rows: rowsWritten, revision } = written.parse(rows[0]);
  return { cpuMs: node.agent.cpuMs(), rowsWritten: rowsWritten + revision, revision };
}
