// A database that was restored from a backup, and whose hold then ends: facts of its rows that have
// changed since do not act. What is asserted is what the target has, and whom it lets in.
import { pino } from "pino";
import { describe, expect, it } from "vitest";
import { Writable } from "node:stream";
import { call, refusal, until, type TestAgent } from "../support/agent.ts";
import { readBack, tag } from "../support/crash-scenario.ts";
import type { TestDatabase } from "../support/database.ts";
import { explainVolume, storageNode } from "../support/explain.ts";
import {
  changeHost,
  exportsAre,
  forgetLvol,
  letIn,
  onHold,
  restoredNode,
  type RestoredNode,
} from "../support/restored-node.ts";
import { getLvol, GIB, HOST, idOf, provision, remove, stateOf, WAIT } from "../support/volumes.ts";

const SMALL = { sizeBytes: GIB / 16n };
const REVOKED = "nqn.2026-11.io.host:revoked";
const LATER = "nqn.2026-11.io.host:later";
const HOSTS = [HOST, REVOKED].toSorted();

const healthOf = ({ client }: TestAgent) => call(client, client.getHealth.bind(client), {});

async function theDisk({ client }: TestAgent) {
  const page = { pageSize: 0, pageToken: "" };
  const { disks } = await call(client, client.listDisks.bind(client), page);
  return { id: disks[0]?.meta?.id ?? "", freeSpace: disks[0]?.status?.lvstore?.freeSpace };
}

const lvolNames = ({ target }: RestoredNode) =>
  [...target.state().stores.values()].flatMap(({ lvols }) =>
    [...lvols.values()].map(({ blob }) => blob.name),
  );

/** A delete of which the target dies when clusters are freed and not cleared. */
async function deleteCutOff({ target }: RestoredNode, agent: TestAgent, id: string) {
  const { gate } = target.engine();
  const stopped = new Promise((resolve) => (gate.onStopped = resolve));
  gate.stopAt({ when: "midway", method: "bdev_lvol_delete", nth: 1 });
  const done = remove(agent, id);
  await stopped;
  await target.restart();
  await done;
}

/**
 * A node with a backup of its database, and what happened since: a host was revoked and another one
 * allowed, a volume was deleted and its clusters were left uncleared, another one was made.
 */
async function changedSince(node: RestoredNode) {
  const newest = await node.emptyDatabase();
  const before = await node.withAgent(newest, async (agent) => {
    await agent.ready();
    return {
      shared: await provision(agent, { ...SMALL, allowedHostNqns: HOSTS }),
      open: await provision(agent, { ...SMALL, allowedHostNqns: [], allowAnyHost: true }),
      doomed: await provision(agent, SMALL),
      unseen: await provision(agent, SMALL),
      unseenGone: await provision(agent, SMALL),
    };
  });
  const backup = await node.backup(newest);
  await forgetLvol(backup, idOf(before.unseen));
  await forgetLvol(backup, idOf(before.unseenGone));
  const young = await node.withAgent(newest, async (agent) => {
    await agent.ready();
    tag(node, before.doomed.status?.lvolUuid ?? "", 7, 64 * 1024);
    const lvolId = idOf(before.shared);
    await changeHost(agent, "revokeHost", { lvolId, hostNqn: REVOKED });
    await changeHost(agent, "allowHost", { lvolId, hostNqn: LATER });
    await remove(agent, idOf(before.unseenGone));
    const made = await provision(agent, SMALL);
    await deleteCutOff(node, agent, idOf(before.doomed));
    await until("the exports are back", async () => {
      return stateOf(await getLvol(agent, lvolId)) === "LVOL_STATE_UP";
    });
    expect((await theDisk(agent)).freeSpace).toBe("FREE_SPACE_UNKNOWN");
    return made;
  });
  return { ...before, young, newest, backup };
}

/** Runs the rebuild on the node that is on hold, and waits until the hold has ended. */
async function endHold(
  node: RestoredNode,
  backup: TestDatabase,
  agent: TestAgent,
  ...args: readonly string[]
): Promise<string> {
  await onHold(agent);
  const { code, output } = await node.rebuild(backup, ...args, "--apply");
  expect({ code, output }).toMatchObject({ code: 0 });
  await agent.ready();
  return output;
}

describe("a database that was restored from a backup", () => {
  it("puts the node on hold: nothing changes, and only reads are answered", async () => {
    await using node = await restoredNode();
    const { shared, backup } = await changedSince(node);
    const lvols = lvolNames(node);
    await node.withAgent(backup, async (agent) => {
      await onHold(agent);
      await until("the rows are read", async () => {
        return (await getLvol(agent, idOf(shared)).catch(() => undefined)) !== undefined;
      });
      expect((await refusal(provision(agent, SMALL))).reason).toBe("ON_HOLD");
      const { out: screen } = await storageNode(["status", "--address", agent.address]);
      expect(screen).toMatch(/^hold +ON HOLD .*\n +-> restore the newer database/m);
      expect(screen).toMatch(
        /^writes +NOT OK .*not tried while the node is on hold\n +-> end the hold/m,
      );
      expect(letIn(node, shared.status?.nqn)).toEqual([HOST, LATER].toSorted());
      expect(lvolNames(node)).toEqual(lvols);
    });
  });

  it("lets no host in after the hold, until it is confirmed, and says how many wait", async () => {
    await using node = await restoredNode();
    const { shared, open, unseen, backup } = await changedSince(node);
    await node.withAgent(backup, async (agent) => {
      const output = await endHold(node, backup, agent);
      // shared has two hosts, open any host, and doomed, unseen and unseenGone one each.
      expect(output).toContain("6 hosts may not connect");
      expect((await healthOf(agent)).unconfirmedHosts).toBe(6);
      await exportsAre(node, [
        [shared.status?.nqn, []],
        [open.status?.nqn, []],
        [unseen.status?.nqn, []],
      ]);
      const { out } = await storageNode(["status", "--address", agent.address]);
      expect(out).toMatch(/hosts +UNCONFIRMED +6 hosts/);
      const { lvolId, ...rest } = { lvolId: idOf(shared), hostNqn: HOST };
      const { client } = agent;
      const asked = { target: { $case: "lvolId", value: lvolId } as const, ...rest };
      const exported = (await call(client, client.getExport.bind(client), asked)).export;
      expect(exported?.hosts).toMatchObject(HOSTS.map((nqn) => ({ nqn, unconfirmed: true })));
      expect(exported?.conditions.find(({ type }) => type === "Ready")).toMatchObject({
        reason: "HOST_UNCONFIRMED",
      });
      await changeHost(agent, "allowHost", { lvolId, hostNqn: HOST });
      await changeHost(agent, "revokeHost", { lvolId, hostNqn: REVOKED });
      expect(letIn(node, shared.status?.nqn)).toEqual([HOST]);
      expect((await healthOf(agent)).unconfirmedHosts).toBe(4);
      await node.target.restart();
      await exportsAre(node, [
        [shared.status?.nqn, [HOST]],
        [open.status?.nqn, []],
      ]);
    });
  });

  it("with --keep-listed lets in whom both the rows and the target name", async () => {
    await using node = await restoredNode();
    const { shared, open, young, backup } = await changedSince(node);
    await node.withAgent(backup, async (agent) => {
      await onHold(agent);
      const { output: dry } = await node.rebuild(backup, "--keep-listed");
      expect(dry).toContain(
        `hosts   ${idOf(shared)}  confirmed: ${HOST}  unconfirmed: ${REVOKED}  ` +
          `only on the target, removed: ${LATER}`,
      );
      expect(dry).toContain(`hosts   ${idOf(open)}  confirmed: any host`);
      expect(dry).toContain(`hosts   ${idOf(young)}  only on the target, kept: ${HOST}`);
      expect(dry).toContain("nothing was written");
      const output = await endHold(node, backup, agent, "--keep-listed");
      // Not confirmed: the revoked one, and those of the two volumes that are gone.
      expect(output).toContain("3 hosts may not connect");
      await exportsAre(node, [
        [shared.status?.nqn, [HOST]],
        [open.status?.nqn, ["*"]],
        // Its row was made from the disk: its export is left as it is.
        [young.status?.nqn, [HOST]],
      ]);
      await changeHost(agent, "allowHost", { lvolId: idOf(shared), hostNqn: LATER });
      expect(letIn(node, shared.status?.nqn)).toEqual([HOST, LATER].toSorted());
    });
  });

  it("shows no byte of a volume that was deleted since", async () => {
    await using node = await restoredNode();
    const { backup } = await changedSince(node);
    expect(
      await backup.query(`select free_space from disk where zero_requested_time is null`),
    ).toEqual([{ free_space: "ZEROED" }]);
    await node.withAgent(backup, async (agent) => {
      await endHold(node, backup, agent);
      expect((await refusal(provision(agent, SMALL))).reason).toBe("FREE_SPACE_NOT_ZEROED");
      const { id: diskId } = await theDisk(agent);
      const { client } = agent;
      await call(client, client.zeroFreeSpace.bind(client), { diskId, waitTimeout: WAIT });
      const uuid = (await provision(agent, SMALL)).status?.lvolUuid ?? "";
      tag(node, uuid, 1);
      expect(readBack(node, uuid)).toEqual({ written: [1], rest: [0] });
    });
  });

  it("never makes an empty lvol: not of a deleted volume, not of one that it never saw", async () => {
    await using node = await restoredNode();
    const { doomed, unseen, unseenGone, young, backup } = await changedSince(node);
    const lvols = lvolNames(node).toSorted();
    await node.withAgent(backup, async (agent) => {
      await endHold(node, backup, agent);
      const { id: diskId } = await theDisk(agent);
      const { client } = agent;
      // Free space that is zeroed is what an lvol is waiting for.
      await call(client, client.zeroFreeSpace.bind(client), { diskId, waitTimeout: WAIT });
      const state = async (volume: typeof doomed) => stateOf(await getLvol(agent, idOf(volume)));
      expect(await state(doomed)).toBe("LVOL_STATE_DATA_MISSING");
      expect(await state(unseenGone)).toBe("LVOL_STATE_FAILED");
      const { summary } = await explainVolume(agent, idOf(unseenGone));
      expect(summary).toContain("older than what the node remembers");
      // What was made since is found by its name.
      await until("it is UP", async () => (await state(unseen)) === "LVOL_STATE_UP");
      expect((await getLvol(agent, idOf(unseen))).status?.lvolUuid).toBe(unseen.status?.lvolUuid);
      expect((await getLvol(agent, idOf(young))).status?.lvolUuid).toBe(young.status?.lvolUuid);
      // A host is a new intent, and none that says that the volume was never made.
      await changeHost(agent, "allowHost", { lvolId: idOf(unseenGone), hostNqn: HOST });
      expect(await state(unseenGone)).toBe("LVOL_STATE_FAILED");
      expect(lvolNames(node).toSorted()).toEqual(lvols);
      expect(await remove(agent, idOf(unseenGone))).toEqual({ done: true });
      expect(await remove(agent, idOf(doomed))).toEqual({ done: true });
    });
  });

  it("takes over the size of a volume that was grown since", async () => {
    await using node = await restoredNode();
    const { shared, backup } = await changedSince(node);
    const half = SMALL.sizeBytes / 2n;
    await backup.query(
      `update lvol set size_bytes = ${half}, promised_bytes = ${half} where id = '${idOf(shared)}'`,
    );
    await node.withAgent(backup, async (agent) => {
      await endHold(node, backup, agent);
      const { spec, status } = await getLvol(agent, idOf(shared));
      expect(spec?.sizeBytes).toBe(status?.sizeBytes);
      expect(spec?.sizeBytes).toBeGreaterThanOrEqual(SMALL.sizeBytes);
      const [disk] = agent.node.agent.rows.disks();
      const volumes = [...agent.node.agent.rows.lvols()];
      const promised = volumes.reduce((sum, { promisedBytes }) => sum + promisedBytes, 0n);
      expect(disk?.promisedBytes).toBe(promised);
    });
  });

  it("does not act on requests and assertions of that time", async () => {
    await using node = await restoredNode();
    const { backup } = await changedSince(node);
    await backup.query(
      `update disk set zero_requested_time = now(), free_space = 'UNKNOWN', discard_zeroes = true,
         wipe = '{"requestedTime": "2026-11-01T00:00:00Z", "evidence": [], "reason": "then"}'`,
    );
    await node.withAgent(backup, async (agent) => {
      await endHold(node, backup, agent);
      const zeroed = node.target.engine().gate.counts["bdev_lvol_create"];
      expect(zeroed).toBeUndefined();
      const [disk] = agent.node.agent.rows.disks();
      expect(disk).toMatchObject({ zeroRequestedTime: undefined, discardZeroes: false });
      expect(disk).toMatchObject({ wipe: undefined, wipeEnded: undefined });
      expect(disk?.freeSpace).toBe("UNKNOWN");
    });
  });

  it("goes on with a deletion of that time, which nobody can have taken back", async () => {
    await using node = await restoredNode();
    const { shared, backup } = await changedSince(node);
    const op = { op: "delete", run: "of-that-time", epoch: "1", since: new Date(), failed: false };
    await backup.query(
      `update lvol set delete_requested_time = now(), generation = generation + 1,
         pending_op = '${JSON.stringify(op)}' where id = '${idOf(shared)}'`,
    );
    await node.withAgent(backup, async (agent) => {
      await endHold(node, backup, agent);
      await until("it is deleted", async () => {
        return stateOf(await getLvol(agent, idOf(shared))) === "LVOL_STATE_DELETED";
      });
      expect(lvolNames(node)).not.toContain(idOf(shared));
      expect(letIn(node, shared.status?.nqn)).toBeUndefined();
      // The hosts of a volume that is gone wait for nothing.
      expect((await healthOf(agent)).unconfirmedHosts).toBe(4);
    });
  });

  it("does not take a store for blank that its row saw only begun", async () => {
    await using node = await restoredNode();
    const { backup } = await changedSince(node);
    await backup.query(`update disk set lvs_uuid = null, state = 'CLAIMING', cluster_bytes = null`);
    await node.withAgent(backup, async (agent) => {
      await onHold(agent);
      // The disk is not attached, so the rebuild does not find its store.
      await node.target.restart();
      const without = ["--without", "SIM0"];
      expect(await node.rebuild(backup, ...without, "--apply")).toMatchObject({ code: 0 });
      await until("its store is loaded", () => {
        return [...agent.node.agent.rows.disks()].every(({ state }) => state === "FOREIGN");
      });
      expect(lvolNames(node)).not.toEqual([]);
    });
    expect(await node.rebuild(backup, "--apply")).toMatchObject({ code: 0 });
    await node.withAgent(backup, async (agent) => {
      await agent.ready();
      expect((await theDisk(agent)).freeSpace).toBe("FREE_SPACE_UNKNOWN");
    });
  });
});

describe("how a hold ends", () => {
  it("stays, if only its note is removed from the row of the node", async () => {
    await using node = await restoredNode();
    const { shared, backup } = await changedSince(node);
    const lines: string[] = [];
    const sink = new Writable({
      write: (chunk: Buffer, _encoding, done) => {
        lines.push(chunk.toString());
        done();
      },
    });
    const said = (text: string) => lines.some((line) => line.includes(text));
    await node.withAgent(
      backup,
      async (agent) => {
        await onHold(agent);
        await backup.query(`update node set hold = null`);
        await until("it is noticed", () => said("is set again"));
        await onHold(agent);
        expect(letIn(node, shared.status?.nqn)).toEqual([HOST, LATER].toSorted());
        await endHold(node, backup, agent);
        expect(said('"unconfirmed_hosts":6')).toBe(true);
      },
      pino({ level: "info" }, sink),
    );
  });

  it("by the newer database: its rows act as they are", async () => {
    await using node = await restoredNode();
    const { shared, young, newest, backup } = await changedSince(node);
    await node.withAgent(backup, onHold);
    await node.withAgent(newest, async (agent) => {
      await agent.ready();
      expect((await healthOf(agent)).unconfirmedHosts).toBe(0);
      await exportsAre(node, [
        [shared.status?.nqn, [HOST, LATER].toSorted()],
        [young.status?.nqn, [HOST]],
      ]);
    });
  });

  it("by an empty database and rows from the disks: exports are left as they are", async () => {
    await using node = await restoredNode();
    const { shared, open } = await changedSince(node);
    const empty = await node.emptyDatabase();
    await node.withAgent(empty, async (agent) => {
      const output = await endHold(node, empty, agent, "--keep-listed");
      expect(output).not.toContain("may not connect");
      expect((await healthOf(agent)).unconfirmedHosts).toBe(0);
      expect(letIn(node, shared.status?.nqn)).toEqual([HOST, LATER].toSorted());
      expect(letIn(node, open.status?.nqn)).toEqual(["*"]);
      const { status } = await getLvol(agent, idOf(shared));
      const exported = status?.conditions.find(({ type }) => type === "Exported");
      expect(exported?.reason).toBe("UNCONFIRMED");
    });
  });
});
