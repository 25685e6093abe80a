// Writes what the writer writes, of a disk, a controller, a volume and a snapshot that are none, and takes it back: shows
// that the schema takes it and that nobody holds a lock against it. Nothing of it is ever committed.
import { randomUUID } from "node:crypto";
import { newControllerRow } from "../model/controller.ts";
import { newDiskRow } from "../model/disk.ts";
import { newLvolRow } from "../model/lvol.ts";
import { newSnapshotRow } from "../model/snapshot.ts";
import type { Database } from "./database.ts";
import { takeIds } from "./object-ids.ts";
import type { Sql } from "./sql.ts";
import * as sql from "./statements.ts";

/** Ends the transaction with a rollback. */
class Rehearsed extends Error {}

const NOTHING = {
  lvols: [],
  snapshots: [],
  disks: [],
  controllers: [],
  newDisks: [],
  newControllers: [],
  restored: [],
  ended: [],
};

/** Throws what a commit would throw, LeaseLost included. */
export async function rehearse(
  database: Database,
  node: { readonly nodeId: string; readonly nqnPrefix: string; readonly epoch: bigint },
): Promise<void> {
  try {
    await database.transaction(async (client) => {
      await writeAndForget(client, node);
      throw new Rehearsed();
    });
  } catch (error) {
    if (!(error instanceof Rehearsed)) throw error;
  }
}

async function writeAndForget(
  client: Sql,
  { nodeId, nqnPrefix, epoch }: Parameters<typeof rehearse>[1],
): Promise<void> {
  // What is checked at the end of a transaction is checked at once.
  await client.query("set constraints all immediate");
  const { revision, now } = await sql.raiseRevision(client, nodeId, epoch);
  const [id, snapshotId, serial] = [randomUUID(), randomUUID(), randomUUID()];
  const place = { transport: "TCP", address: "", sizeBytes: 0n, blockSize: 512 } as const;
  const disk = newDiskRow(nodeId, { serial, model: "none", nsid: 1, ...place }, now);
  const controller = newControllerRow(nodeId, { id: serial }, now);
  const of = { nodeId, diskId: disk.id, labels: {}, actor: undefined, traceparent: undefined };
  const hosts = { hosts: [], allowAnyHost: false, qos: undefined };
  const request = { sizeBytes: 1n, thin: true, diskId: disk.id, sourceSnapshotId: undefined };
  const lvol = newLvolRow({
    ...of,
    id,
    request: { ...request, ...hosts },
    promisedBytes: 1n,
    nqn: `${nqnPrefix}:${id}`,
    revision,
    now,
  });
  const snapshot = newSnapshotRow({
    ...of,
    id: snapshotId,
    familyRoot: id,
    sourceLvolId: id,
    adopted: false,
    promisedBytes: 1n,
    revision,
    now,
  });
  const rows = { lvols: [lvol], snapshots: [snapshot], disks: [disk], controllers: [controller] };
  await sql.writeStatus(
    client,
    { ...NOTHING, newDisks: [disk], newControllers: [controller] },
    revision,
  );
  await takeIds(client, nodeId, [
    { id, kind: "l" },
    { id: snapshotId, kind: "s" },
  ]);
  await sql.writeIntents(client, rows);
  await sql.writeStatus(client, { ...NOTHING, ...rows }, revision);
}
