// Time to take snapshots of many volumes at once, and to make clones of as many, compared with the same
// calls pipelined by hand, each read back, plus bulk writes of the rows plus as many gRPC echoes.
import { randomUUID } from "node:crypto";
import {
  ProvisionLvolResponse,
  SnapshotResponse,
} from "../../src/gen/storagenode/v1/storage_node.ts";
import { deleteSnapshot, takeSnapshot } from "../support/snapshots.ts";
import { getLvol, idOf, provision, remove } from "../support/volumes.ts";
import { VOLUME_BYTES, type BenchNode } from "./bench-node.ts";
import { ByHand, type HandMade } from "./by-hand.ts";
import { startEcho } from "./echo.ts";
import { inTurns, spread, timed } from "./measure.ts";
import { lineOf, type Row } from "./row.ts";

const GOAL = { kind: "at most", value: 1.5 } as const;

export const snapshotRow: Row = {
  name: "snapshot",
  async run({ sizes, pairs, warmUps, startNode }) {
    const count = sizes.volumes;
    await using node = await startNode();
    await using hand = await ByHand.open(node);
    const ids = await node.provision(count);
    const answer = SnapshotResponse.encode(await snapshotOf(node, ids[0] ?? "")).finish();
    await using echo = await startEcho({ Snapshot: answer });
    const cpu: number[] = [];
    const ours = async () => {
      const taken: string[] = [];
      const before = node.agent.cpuMs();
      const ms = await timed(async () => {
        await Promise.all(
          ids.map(async (source) => {
            const id = randomUUID();
            taken.push(id);
            await takeSnapshot(node.agent, source, { id });
          }),
        );
      });
      cpu.push(node.agent.cpuMs() - before);
      await Promise.all(taken.map((id) => deleteSnapshot(node.agent, id)));
      return ms;
    };
    const limit = async () =>
      await byHand(hand, count, {
        act: async (volumes) => {
          await hand.insertRows(volumes);
          await hand.snapshot(volumes);
          await hand.updateRows(volumes);
          await Promise.all(ids.map((id) => takeSnapshot(echo, id)));
        },
      });
    const taken = await inTurns({ pairs, warmUps, ours, limit });
    const what = `${count} snapshots taken at once`;
    return {
      lines: [
        lineOf(taken, { what, unit: "ms", goal: GOAL }),
        { what: `${what}: agent's CPU time`, unit: "ms", ours: spread(cpu.slice(warmUps)) },
      ],
      notes: [],
      raw: { taken, agentCpuMs: cpu },
    };
  },
};

export const cloneRow: Row = {
  name: "clone",
  async run({ sizes, pairs, warmUps, startNode }) {
    // A target has about a thousand exports: as many volumes as clones.
    const count = sizes.volumes / 2;
    await using node = await startNode();
    await using hand = await ByHand.open(node);
    const ids = await node.provision(count);
    const lvol = await getLvol(node.agent, ids[0] ?? "");
    const answer = ProvisionLvolResponse.encode({ lvol }).finish();
    await using echo = await startEcho({ ProvisionLvol: answer });
    const sources = await Promise.all(ids.map((id) => takeSnapshot(node.agent, id)));
    const snapshots = sources.map(({ meta }) => meta?.id ?? "");
    const cloneOf = (id: string) => ({ sizeBytes: VOLUME_BYTES, sourceSnapshotId: id });
    const cpu: number[] = [];
    const ours = async () => {
      let clones: readonly string[] = [];
      const before = node.agent.cpuMs();
      const ms = await timed(async () => {
        const made = snapshots.map((id) => provision(node.agent, cloneOf(id)));
        clones = (await Promise.all(made)).map(idOf);
      });
      cpu.push(node.agent.cpuMs() - before);
      await Promise.all(clones.map((id) => remove(node.agent, id)));
      return ms;
    };
    const limit = async () => {
      let clones: readonly (HandMade & { readonly parent: string })[] = [];
      return await byHand(hand, count, {
        before: async (volumes) => {
          await hand.snapshot(volumes);
          clones = volumes.map((one) => ({ ...one, id: randomUUID(), parent: one.id }));
        },
        act: async () => {
          await hand.insertRows(clones);
          await hand.clone(clones);
          await hand.updateRows(clones);
          await Promise.all(snapshots.map((id) => provision(echo, cloneOf(id))));
        },
        after: async () => await hand.removeFromTarget(clones),
      });
    };
    const taken = await inTurns({ pairs, warmUps, ours, limit });
    const what = `${count} clones made and exported at once`;
    return {
      lines: [
        lineOf(taken, { what, unit: "ms", goal: GOAL }),
        { what: `${what}: agent's CPU time`, unit: "ms", ours: spread(cpu.slice(warmUps)) },
      ],
      notes: [],
      raw: { taken, agentCpuMs: cpu },
    };
  },
};

async function snapshotOf({ agent }: BenchNode, id: string): Promise<SnapshotResponse> {
  const snapshot = await takeSnapshot(agent, id);
  await deleteSnapshot(agent, snapshot.meta?.id ?? "");
  return { snapshot };
}

type Turn = {
  readonly before?: (volumes: readonly HandMade[]) => Promise<void>;
  readonly act: (volumes: readonly HandMade[]) => Promise<void>;
  readonly after?: () => Promise<void>;
};

/** Volumes by hand, made and removed outside of the time; to the agent they are orphans meanwhile. */
async function byHand(hand: ByHand, count: number, { before, act, after }: Turn): Promise<number> {
  const volumes = hand.names(count);
  await hand.makeOnTarget(volumes);
  await before?.(volumes);
  const ms = await timed(async () => await act(volumes));
  await after?.();
  await hand.removeSnapshots(volumes);
  await hand.removeFromTarget(volumes);
  await hand.deleteRows();
  return ms;
}
