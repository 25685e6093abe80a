// `storage-node rebuild` on a target that has not loaded every store of the node: what could not be read is not absent.
import { describe, expect, it } from "vitest";
import { until } from "../support/agent.ts";
import type { TestDatabase } from "../support/database.ts";
import { restoredNode, type RestoredNode } from "../support/restored-node.ts";
import { deleteSnapshot, getSnapshot, snapshotIdOf, takeSnapshot } from "../support/snapshots.ts";
import { GIB, idOf, provision } from "../support/volumes.ts";

const SMALL = { sizeBytes: GIB / 16n };

/** As it was before the snapshot was taken: what no agent may do, the trigger forbids. */
async function forgetSnapshots(database: TestDatabase): Promise<void> {
  await database.query(`alter table snapshot disable trigger lvol_uuid_is_kept`);
  await database.query(
    `update snapshot set lvol_uuid = null, lvs_uuid = null, observed_size_bytes = null,
       pending_op = null, observed_generation = 0`,
  );
  await database.query(`alter table snapshot enable trigger lvol_uuid_is_kept`);
}

/** A backup that knows of two snapshots that they were asked for; one was deleted since. */
async function withOlderSnapshots(node: RestoredNode) {
  const newest = await node.emptyDatabase();
  const [kept, gone] = await node.withAgent(newest, async (agent) => {
    await agent.ready();
    const id = idOf(await provision(agent, SMALL));
    return [await takeSnapshot(agent, id), await takeSnapshot(agent, id)];
  });
  const backup = await node.backup(newest);
  await forgetSnapshots(backup);
  await node.withAgent(newest, async (agent) => {
    await agent.ready();
    await deleteSnapshot(agent, snapshotIdOf(gone));
  });
  return { kept, gone, backup };
}

const lvolNames = ({ target }: RestoredNode) =>
  [...target.state().stores.values()]
    .flatMap(({ lvols }) => [...lvols.values()].map(({ blob }) => blob.name))
    .toSorted();

describe("a snapshot of an older database that was asked for and not taken then", () => {
  it.each([
    ["whose disk is loaded", false],
    ["whose disk is not loaded", true],
  ])("%s is UP if it was taken since, and is not taken now", async (_name, restarted) => {
    await using node = await restoredNode();
    const { kept, gone, backup } = await withOlderSnapshots(node);
    const lvols = lvolNames(node);
    if (restarted) await node.target.restart();
    const { code, output } = await node.rebuild(backup, "--apply");
    expect({ code, output }).toMatchObject({ code: 0 });
    await node.withAgent(backup, async (agent) => {
      await agent.ready();
      const stateOf = async (one: typeof kept) =>
        (await getSnapshot(agent, snapshotIdOf(one))).status?.state;
      await until("both are decided", async () => {
        const states = [await stateOf(kept), await stateOf(gone)];
        return !states.includes("SNAPSHOT_STATE_CREATING");
      });
      const { status } = await getSnapshot(agent, snapshotIdOf(kept));
      expect(status).toMatchObject({
        state: "SNAPSHOT_STATE_UP",
        lvolUuid: kept.status?.lvolUuid,
      });
      expect(await stateOf(gone)).toBe("SNAPSHOT_STATE_FAILED");
      expect(lvolNames(node)).toEqual(lvols);
    });
  });
});
