// Cost of one volume and of a target restart on nodes of different sizes, with the number of SPDK
// calls and SQL statements. Sizes cannot alternate, because a node only grows; each size alternates
// with its own limit (the same work by hand), so sizes can also be compared by their ratio to the
// limit.
import type { BenchNode } from "./bench-node.ts";
import type { Counts } from "./counts.ts";
import { limitOf, oursOf, ratioOf, spread, timed, type Pair } from "./measure.ts";
import { plot, type Drawn } from "./plot.ts";
import { oneVolumeInTurns } from "./row-one-volume.ts";
import { restartsInTurns } from "./row-restart.ts";
import { lineOf, type Bench, type Line, type Row } from "./row.ts";

type AtSize = {
  readonly volumes: number;
  readonly single: readonly Pair[];
  readonly singleAgentCpuMs: readonly number[];
  /** Milliseconds per volume of a burst. */
  readonly burstMs: readonly number[];
  readonly burstAgentCpuMs: readonly number[];
  readonly restart: readonly Pair[];
  readonly restartAgentCpuMs: readonly number[];
  readonly counts: {
    readonly single: Counts;
    readonly burst: Counts;
    readonly burstVolumes: number;
  };
};

export const scaleRow: Row = {
  name: "scale",
  async run(bench) {
    const sizes: AtSize[] = [];
    for (const volumes of bench.sizes.scale) {
      bench.say(`scale: ${volumes} volumes`);
      await using node = await bench.startNode();
      sizes.push(await atSize(bench, node, volumes));
    }
    return {
      lines: [...sizes.flatMap(linesOf), ...comparison(sizes)],
      notes: sizes.map(({ volumes, counts: { single } }) => {
        const calls = sum(single.calls);
        return `at ${volumes}, for 1 volume: ${calls} SPDK calls, ${single.bytesToTarget} bytes out, ${
          single.bytesFromTarget
        } in, ${sum(single.statements)} statements, ${single.statements["commit"] ?? 0} commits`;
      }),
      raw: { sizes },
      svg: plot(sizes.map(drawn)),
    };
  },
};

async function atSize(bench: Bench, node: BenchNode, volumes: number): Promise<AtSize> {
  const { sizes, pairs, warmUps, canKill } = bench;
  // Warm up the agent: otherwise it is colder on small nodes than on large ones.
  await node.remove(await node.provision(sizes.warmUpVolumes));
  await node.fillTo(volumes);
  const count = Math.max(pairs, sizes.singles);
  const one = await oneVolumeInTurns(node, { pairs: count, warmUps: warmUps * 5 });
  const burst = await bursts(node, { volumes: sizes.burst, count: pairs, warmUps });
  const restarts = { pairs: sizes.restartsPerScale, warmUps };
  const { taken: restart, agentCpuMs } = canKill
    ? await restartsInTurns(node, restarts)
    : { taken: [], agentCpuMs: [] };
  return {
    volumes,
    single: one.taken,
    singleAgentCpuMs: one.agentCpuMs,
    ...burst,
    restart,
    restartAgentCpuMs: agentCpuMs,
    counts: await counted(node, sizes.burst),
  };
}

async function bursts(
  node: BenchNode,
  {
    volumes,
    count,
    warmUps,
  }: { readonly volumes: number; readonly count: number; readonly warmUps: number },
) {
  const burstMs: number[] = [];
  const burstAgentCpuMs: number[] = [];
  for (let turn = -warmUps; turn < count; turn += 1) {
    const cpuBefore = node.agent.cpuMs();
    let ids: readonly string[] = [];
    const ms = await timed(async () => (ids = await node.provision(volumes)));
    if (turn >= 0) burstMs.push(ms / volumes);
    if (turn >= 0) burstAgentCpuMs.push((node.agent.cpuMs() - cpuBefore) / volumes);
    await node.remove(ids);
  }
  return { burstMs, burstAgentCpuMs };
}

async function counted(node: BenchNode, burstVolumes: number) {
  await node.startAgent({ counted: true });
  node.proxies.reset();
  const one = await node.provision(1);
  const single = node.proxies.counts();
  node.proxies.reset();
  const many = await node.provision(burstVolumes);
  const burst = node.proxies.counts();
  await node.remove([...one, ...many]);
  return { single, burst, burstVolumes };
}

function drawn({ volumes, single, burstMs, restart }: AtSize): Drawn {
  const restarts = restart.length > 0;
  return {
    volumes,
    singleMs: oursOf(single).median,
    singleByHandMs: limitOf(single).median,
    burstMs: spread(burstMs).median,
    restartMs: restarts ? oursOf(restart).median : undefined,
    restartByHandMs: restarts ? limitOf(restart).median : undefined,
  };
}

function linesOf(at: AtSize): readonly Line[] {
  const { volumes, single, restart } = at;
  const busy = (what: string, ours: readonly number[]): Line => ({
    what: `${what}: agent's CPU time`,
    unit: "ms",
    ours: spread(ours),
  });
  const one = `1 volume at ${volumes}`;
  const burst = `burst at ${volumes}, per volume`;
  const back = `restart at ${volumes}`;
  return [
    lineOf(single, { what: one, unit: "ms" }),
    busy(one, at.singleAgentCpuMs),
    { what: burst, unit: "ms", ours: spread(at.burstMs) },
    busy(burst, at.burstAgentCpuMs),
    ...(restart.length === 0
      ? []
      : [lineOf(restart, { what: back, unit: "ms" }), busy(back, at.restartAgentCpuMs)]),
  ];
}

/** Largest against smallest size: measured times, and their ratios to the limit of each size. */
function comparison(sizes: readonly AtSize[]): readonly Line[] {
  const [small, large] = [sizes[0], sizes.at(-1)];
  if (small === undefined || large === undefined) return [];
  const goal = { kind: "at most", value: 1.3 } as const;
  const name = `1 volume at ${large.volumes} by 1 volume at ${small.volumes}`;
  const raw = oursOf(large.single).median / oursOf(small.single).median;
  const relative = ratioOf(large.single).median / ratioOf(small.single).median;
  const limit = limitOf(large.single).median / limitOf(small.single).median;
  return [
    {
      what: name,
      unit: "times",
      ours: spread([raw]),
      limit: spread([limit]),
      ratio: spread([raw]),
      goal,
    },
    { what: `${name}, relative to the limit`, unit: "times", ours: spread([relative]), goal },
  ];
}

function sum(counts: Readonly<Record<string, number>>): number {
  return Object.values(counts).reduce((total, count) => total + count, 0);
}
