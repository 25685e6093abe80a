// The statements of one transaction of the writer, in their order.
import type { AdmissionPolicy } from "../model/admission.ts";
import { admitBatch } from "./admit-batch.ts";
import type { Rows } from "./rows.ts";
import type { Sql } from "./sql.ts";
import * as sql from "./statements.ts";
import { statusBatch } from "./status-queue.ts";
import { compact } from "./tombstones.ts";
import type { Work } from "./work.ts";

/** Throws LeaseLost, RowsBehind and IdsTaken. */
export async function writeWork(
  client: Sql,
  work: Work,
  {
    rows,
    policy,
    epoch,
    old,
  }: {
    readonly rows: Rows;
    readonly policy: AdmissionPolicy;
    readonly epoch: bigint;
    /** Ids of deleted volumes whose rows are compacted. */
    readonly old: readonly string[];
  },
) {
  const locked = await sql.raiseRevision(client, policy.nodeId, epoch);
  const { targetProcess = locked.targetProcess } = work;
  const node = { ...locked, targetProcess };
  // Every writer increments the revision, and under this epoch only this process writes. Any
  // other revision means a restored database or rebuilt rows: nothing may be admitted on the rows
  // in memory.
  if (node.revision !== (rows.node?.revision ?? 0n) + 1n) throw new sql.RowsBehind();
  if (work.targetProcess !== undefined)
    await sql.writeTargetProcess(client, policy.nodeId, work.targetProcess);
  const applied = await sql.writeStatus(client, statusBatch(work, rows), node.revision);
  const intents = await admitBatch(client, work.intents, {
    rows,
    policy,
    written: { node, ...applied },
  });
  const compacted = await compact(client, old);
  return {
    outcomes: intents.outcomes,
    applied: applied.ids,
    committed: {
      node: { ...node, cordoned: intents.cordoned },
      lvols: [...applied.lvols, ...intents.lvols],
      snapshots: [...applied.snapshots, ...intents.snapshots],
      disks: [...applied.disks, ...intents.disks],
      controllers: [...applied.controllers, ...intents.controllers],
      compacted,
    },
  };
}
