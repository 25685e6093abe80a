// Time from the moment the socket of a killed and restarted target accepts until every export
// exists, compared with attaching the disks and pipelining the same calls by hand.
//
// Both are observed the same way: a separate connection reads a few exports by name, including the
// last one, about every ten milliseconds, and reads the full list once these exist. Asking the
// agent would slow down what is measured.
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { accepts, type TestTarget } from "../support/target.ts";
import type { BenchNode, VolumeOnNode } from "./bench-node.ts";
import { restoreByHand } from "./by-hand.ts";
import { inTurns, spread, type Pair } from "./measure.ts";
import { RawConnection } from "./raw-connection.ts";
import { lineOf, type Row } from "./row.ts";

const LIMIT_MS = 120_000;
const SAMPLES = 6;
const PROBE_MS = 5;
const LIST_AGAIN_MS = 50;

export const restartRow: Row = {
  name: "restart",
  async run({ sizes, pairs, warmUps, startNode, canKill }) {
    if (!canKill) return { lines: [], notes: ["not measured: no --restart-cmd"], raw: {} };
    await using node = await startNode();
    await node.fillTo(sizes.volumes);
    const { taken, agentCpuMs } = await restartsInTurns(node, { pairs, warmUps });
    const what = `target killed, ${sizes.volumes} exports back`;
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

export async function restartsInTurns(
  node: BenchNode,
  { pairs, warmUps }: { readonly pairs: number; readonly warmUps: number },
): Promise<{ readonly taken: readonly Pair[]; readonly agentCpuMs: readonly number[] }> {
  const volumes = await node.volumes();
  const agentCpuMs: number[] = [];
  const ours = async () => {
    const cpuBefore = node.agent.cpuMs();
    const { acceptedMs, ended } = await restarted(node.target);
    const ms = (await allBack(node, volumes)) - acceptedMs;
    agentCpuMs.push(node.agent.cpuMs() - cpuBefore);
    await ended;
    return ms;
  };
  const limit = async () => {
    // Stop the agent instead of ending it, so that it stays warm.
    node.agent.signal("SIGSTOP");
    const { acceptedMs, ended } = await restarted(node.target);
    await using raw = await RawConnection.open(node.target.socket);
    await restoreByHand(raw, node, volumes);
    const ms = (await allBack(node, volumes)) - acceptedMs;
    await ended;
    await (
      await restarted(node.target)
    ).ended;
    node.agent.signal("SIGCONT");
    await allBack(node, volumes);
    return ms;
  };
  const taken = await inTurns({ pairs, warmUps, ours, limit, between: () => sleep(500) });
  return { taken, agentCpuMs: agentCpuMs.slice(warmUps) };
}

/**
 * Kills and restarts the target; resolves when it takes calls. The command that restarts a real target
 * may need longer to see that, and is to be awaited with `ended`.
 */
async function restarted(
  target: TestTarget,
): Promise<{ readonly acceptedMs: number; readonly ended: Promise<void> }> {
  const ended = target.restart();
  ended.catch(() => {});
  await Promise.race([acceptsAgain(target.socket), ended.then(() => new Promise(() => {}))]);
  // A real target accepts before it is initialized.
  await using raw = await RawConnection.open(target.socket);
  await raw.call("framework_wait_init");
  return { acceptedMs: performance.now(), ended };
}

async function acceptsAgain(socket: string): Promise<void> {
  const end = performance.now() + LIMIT_MS;
  let wasGone = false;
  for (;;) {
    const accepting = await accepts(socket);
    if (accepting && wasGone) return;
    wasGone ||= !accepting;
    if (performance.now() > end)
      throw new Error(`the target did not accept connections within ${LIMIT_MS} ms`);
    await sleep(1);
  }
}

const subsystems = z.array(
  z.object({
    nqn: z.string(),
    hosts: z.array(z.unknown()),
    listen_addresses: z.array(z.unknown()),
    namespaces: z.array(z.unknown()).default([]),
  }),
);

/** The time at which every volume was observed with namespace, host and listener. */
async function allBack(node: BenchNode, volumes: readonly VolumeOnNode[]): Promise<number> {
  await using raw = await RawConnection.open(node.target.socket);
  const sample = sampleOf(volumes);
  const wanted = new Set(volumes.map(({ nqn }) => nqn));
  const end = performance.now() + LIMIT_MS;
  while (performance.now() < end) {
    if (await allThere(raw, sample)) {
      const listed = await raw.call("nvmf_get_subsystems");
      const observedMs = performance.now();
      const back = new Set(exported(listed));
      if (wanted.isSubsetOf(back)) return observedMs;
      await sleep(LIST_AGAIN_MS);
    } else await sleep(PROBE_MS);
  }
  throw new Error(`the exports were not restored within ${LIMIT_MS} ms`);
}

function sampleOf(volumes: readonly VolumeOnNode[]): readonly string[] {
  const step = Math.max(1, Math.floor(volumes.length / SAMPLES));
  const some = volumes.filter((_, index) => index % step === 0 || index === volumes.length - 1);
  return some.map(({ nqn }) => nqn);
}

async function allThere(raw: RawConnection, nqns: readonly string[]): Promise<boolean> {
  const found = await Promise.all(
    nqns.map(async (nqn) => {
      try {
        return exported(await raw.call("nvmf_get_subsystems", { nqn })).length === 1;
      } catch {
        // The subsystem does not exist yet.
        return false;
      }
    }),
  );
  return found.every(Boolean);
}

function exported(answer: unknown): readonly string[] {
  return subsystems
    .parse(answer)
    .filter(
      ({ hosts, listen_addresses: listeners, namespaces }) =>
        hosts.length > 0 && listeners.length > 0 && namespaces.length > 0,
    )
    .map(({ nqn }) => nqn);
}
