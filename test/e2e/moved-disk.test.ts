// A drive is moved from one node of the fleet to another: what lies on it follows once the first one has
// released it, and stays where it is before.
import { describe, expect, it } from "vitest";
import { run } from "../../src/cli/cli.ts";
import { agentEnv, call, refusal, until, type TestAgent } from "../support/agent.ts";
import { testDatabase, type TestDatabase } from "../support/database.ts";
import {
  admit,
  controllersOf,
  diskIdOf,
  diskOf,
  drive,
  GIB,
  nodeWithDrives,
  settled,
  type NodeWithDrives,
} from "../support/drives.ts";
import { changeHost, forgetSnapshots } from "../support/restored-node.ts";
import { getSnapshot, snapshotIdOf, takeSnapshot } from "../support/snapshots.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { REAL_SOCKET } from "../support/target.ts";
import { getLvol, HOST, idOf, provision, remove, stateOf, WAIT } from "../support/volumes.ts";

const DATA = Buffer.from("what a tenant wrote");
const ANOTHER_HOST = "nqn.2026-11.com.example:another";
const NAMESPACE = { sizeBytes: 4n * GIB, blockSizeBytes: 4096 } as const;
/** Another machine of the fleet, with the same database. */
const OTHER = { STORAGE_NODE_ID: "node-2" };

async function volumes({ client }: TestAgent): Promise<readonly (string | undefined)[]> {
  const page = { pageSize: 0, pageToken: "", showDeleted: false, diskId: "" };
  const { lvols } = await call(client, client.listLvols.bind(client), page);
  return lvols.map(({ meta }) => meta?.id);
}

async function release({ client }: TestAgent, diskId: string): Promise<void> {
  const asked = { diskId, serial: "SER1", force: true, reason: "it moves", waitTimeout: WAIT };
  await call(client, client.releaseDisk.bind(client), asked);
}

/** `rebuild --apply` of the other node. */
async function rebuilt(
  { target, kernel: { root } }: NodeWithDrives,
  { url }: TestDatabase,
  stateDir: string,
): Promise<string> {
  const output: string[] = [];
  const print = (text: string) => output.push(text);
  const env = { ...agentEnv({ url, target, stateDir, root }), ...OTHER };
  const { signal } = new AbortController();
  await run(["rebuild", "--apply"], { env, signal, stdout: print, stderr: print });
  return output.join("\n");
}

describe.skipIf(REAL_SOCKET !== undefined)("a drive that is moved to another node", () => {
  it("brings its volumes, their hosts and their names along once it was released", async () => {
    await using node = await nodeWithDrives({ drives: [drive(1)] });
    const first = await node.start();
    await settled(first, { SER1: "DISK_STATE_UP" });
    const made = await provision(first, { sizeBytes: GIB / 16n, allowedHostNqns: [HOST] });
    const gone = await provision(first, { sizeBytes: GIB / 16n });
    const { nqn, lvolUuid = "" } = made.status ?? {};
    {
      await using control = await node.target.control();
      await control.write(lvolUuid, 0, DATA);
    }
    const diskId = await diskIdOf(first, "SER1");
    await release(first, diskId);
    expect(await remove(first, idOf(gone))).toEqual({ done: true });
    await first[Symbol.asyncDispose]();
    await node.target.restart();
    const second = await node.start(OTHER);
    await settled(second, { SER1: "DISK_STATE_DISCOVERED" });
    expect(await volumes(second)).toEqual([idOf(made)]);
    expect(await admit(second, "SER1")).toBe("OK");
    await until("the volume is UP", async () => {
      return stateOf(await getLvol(second, idOf(made))) === "LVOL_STATE_UP";
    });
    const there = await getLvol(second, idOf(made));
    expect(there).toMatchObject({ spec: { allowedHostNqns: [HOST] }, status: { nqn, lvolUuid } });
    {
      await using control = await node.target.control();
      expect(await control.read(lvolUuid, 0, DATA.length)).toEqual(DATA);
    }
    await until("what was deleted is gone from it", async () => {
      return (await node.target.spdk.bdevLvolGetLvols()).length === 1;
    });
    expect(stateOf(await provision(second, { sizeBytes: GIB / 16n }))).toBe("LVOL_STATE_UP");
    // The first node knows nothing of it any more.
    await second[Symbol.asyncDispose]();
    await node.target.restart();
    const again = await node.start();
    expect(await volumes(again)).toEqual([]);
    expect(await diskOf(again, "SER1")).toBeUndefined();
  });

  it("is not taken over while its node has not released it, and says whose it is", async () => {
    await using node = await nodeWithDrives({ drives: [drive(1)] });
    const first = await node.start();
    await settled(first, { SER1: "DISK_STATE_UP" });
    const made = await provision(first, { sizeBytes: GIB / 16n });
    await first[Symbol.asyncDispose]();
    await node.target.kill();
    // As in another machine: the kernel's driver has it.
    const { kernel } = node.kernel;
    await kernel.unplug("0000:01:00.0");
    await kernel.plugIn(drive(1));
    await node.target.restart();
    const second = await node.start(OTHER);
    await until("it says whose it is", async () => {
      const [controller] = await controllersOf(second);
      return controller?.stateReason.includes("another node of the fleet") === true;
    });
    expect(await diskOf(second, "SER1")).toBeUndefined();
    expect(await volumes(second)).toEqual([]);
    await second[Symbol.asyncDispose]();
    await node.target.restart();
    const back = await node.start();
    await until("the volume is UP", async () => {
      return stateOf(await getLvol(back, idOf(made))) === "LVOL_STATE_UP";
    });
  });

  it("is not taken over while its former node may still be wiping it", async () => {
    await using node = await nodeWithDrives({ drives: [drive(1)] });
    const first = await node.start();
    await settled(first, { SER1: "DISK_STATE_UP" });
    await release(first, await diskIdOf(first, "SER1"));
    await first[Symbol.asyncDispose]();
    const wipe = { requestedTime: new Date(), evidence: [], reason: "it moves" };
    await node.database.query(`update disk set wipe = '${JSON.stringify(wipe)}'`);
    await node.target.restart();
    const second = await node.start(OTHER);
    await until("it says whose it is", async () => {
      const [controller] = await controllersOf(second);
      return controller?.stateReason.includes("another node of the fleet") === true;
    });
    expect(await diskOf(second, "SER1")).toBeUndefined();
  });

  it("is not taken for another drive that looks the same and shows another NGUID", async () => {
    const named = (digit: string) => ({ namespaces: [{ ...NAMESPACE, nguid: digit.repeat(32) }] });
    await using node = await nodeWithDrives({ drives: [{ ...drive(1), ...named("1") }] });
    const twin = { ...drive(1), id: "twin", ...named("2") };
    await using other = await nodeWithDrives({ drives: [twin] });
    const first = await node.start();
    await settled(first, { SER1: "DISK_STATE_UP" });
    const made = await provision(first, { sizeBytes: GIB / 16n });
    await release(first, await diskIdOf(first, "SER1"));
    const second = await other.start({ ...OTHER, DATABASE_URL: node.database.url });
    await until("it says whose it is", async () => {
      const [controller] = await controllersOf(second);
      return controller?.stateReason.includes("another node of the fleet") === true;
    });
    expect(await diskOf(second, "SER1")).toBeUndefined();
    expect(await admit(first, "SER1")).toBe("OK");
    await until("the volume is UP again", async () => {
      return stateOf(await getLvol(first, idOf(made))) === "LVOL_STATE_UP";
    });
  });

  it("is soon gone from its former node, which goes on running and changes nothing of it any more", async () => {
    await using node = await nodeWithDrives({ drives: [drive(1)] });
    await using other = await nodeWithDrives({ drives: [drive(1)] });
    const first = await node.start({}, { timing: { leaseTermMs: 1_500 } });
    await settled(first, { SER1: "DISK_STATE_UP" });
    const made = await provision(first, { sizeBytes: GIB / 16n, allowedHostNqns: [HOST] });
    const diskId = await diskIdOf(first, "SER1");
    await release(first, diskId);
    const second = await other.start({ ...OTHER, DATABASE_URL: node.database.url });
    await settled(second, { SER1: "DISK_STATE_DISCOVERED" });
    // Nothing is asked of the former node that would have it read its rows again.
    await until("it is not listed twice", async () => (await volumes(first)).length === 0);
    const lvolId = idOf(made);
    const late = [
      await refusal(changeHost(first, "allowHost", { lvolId, hostNqn: ANOTHER_HOST })),
      await refusal(remove(first, lvolId)),
      await refusal(release(first, diskId)),
    ];
    expect(late.map(({ reason }) => reason)).toEqual(["NOT_FOUND", "OTHER_NODE", "NOT_FOUND"]);
    expect(await getLvol(second, lvolId)).toMatchObject({ spec: { allowedHostNqns: [HOST] } });
  });

  it("lets in no host that was revoked since the database was backed up from which it comes again", async () => {
    await using node = await nodeWithDrives({ drives: [drive(1)] });
    await using folder = await temporaryFolder();
    const first = await node.start();
    await settled(first, { SER1: "DISK_STATE_UP" });
    const made = await provision(first, { sizeBytes: GIB / 16n, allowedHostNqns: [HOST] });
    const kept = await takeSnapshot(first, idOf(made));
    await release(first, await diskIdOf(first, "SER1"));
    await first[Symbol.asyncDispose]();
    await using backup = await testDatabase({ template: node.database.name });
    await forgetSnapshots(backup);
    await node.target.restart();
    const other = { ...OTHER, STORAGE_NODE_STATE_DIR: folder.path };
    const second = await node.start(other);
    await settled(second, { SER1: "DISK_STATE_DISCOVERED" });
    expect(await admit(second, "SER1")).toBe("OK");
    await until("the volume is UP", async () => {
      return stateOf(await getLvol(second, idOf(made))) === "LVOL_STATE_UP";
    });
    await changeHost(second, "revokeHost", { lvolId: idOf(made), hostNqn: HOST });
    await second[Symbol.asyncDispose]();
    expect(await rebuilt(node, backup, folder.path)).toContain("the hold is ended");
    const again = await node.start({ ...other, DATABASE_URL: backup.url });
    await until("the volume is UP again", async () => {
      const found = (await volumes(again)).includes(idOf(made));
      return found && stateOf(await getLvol(again, idOf(made))) === "LVOL_STATE_UP";
    });
    const { nqn } = made.status ?? {};
    const subsystems = await node.target.spdk.nvmfGetSubsystems();
    expect(subsystems.find((one) => one.nqn === nqn)?.hosts).toEqual([]);
    const { conditions } = (await getLvol(again, idOf(made))).status ?? {};
    expect(conditions?.map(({ type }) => type)).toContain("HostsUnconfirmed");
    // Its row does not know that it was taken, and the store does.
    await until("its snapshot is UP", async () => {
      const { status } = await getSnapshot(again, snapshotIdOf(kept));
      return status?.state === "SNAPSHOT_STATE_UP" && status.lvolUuid === kept.status?.lvolUuid;
    });
  });
});
