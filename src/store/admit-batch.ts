// Admits a batch of intents inside the transaction that writes them, on the rows in memory, which
// equal those of the database, and on the rows that this transaction has written before.
import { changedIds, type AdmissionPolicy, type AdmissionState } from "../model/admission.ts";
import type { DiskRow } from "../model/disk.ts";
import type { LvolRow } from "../model/lvol.ts";
import { MAX_HOSTS } from "../limits.ts";
import { readIds, takeIds } from "./object-ids.ts";
import type { Rows } from "./rows.ts";
import type { Sql } from "./sql.ts";
import * as sql from "./statements.ts";
import { decide, type Outcome, type Waiting } from "./waiting-intents.ts";

/** What the transaction has written before it admits intents. */
export type Written = {
  readonly node: sql.LockedNode;
  readonly lvols: readonly LvolRow[];
  readonly disks: readonly DiskRow[];
};

/**
 * Writes the rows that the batch changes; returns the outcome of each intent, and these rows. Throws
 * IdsTaken.
 */
export async function admitBatch(
  client: Sql,
  batch: readonly Waiting[],
  {
    rows,
    policy,
    written,
  }: {
    readonly rows: Rows;
    readonly policy: AdmissionPolicy;
    readonly written: Written;
  },
): Promise<{ outcomes: readonly Outcome[]; lvols: LvolRow[]; disks: DiskRow[] }> {
  if (batch.length === 0) return { outcomes: [], lvols: [], disks: [] };
  const { node } = written;
  const known = new Map(written.lvols.map((row) => [row.id, row]));
  const unknown: string[] = [];
  for (const id of batch.flatMap(({ mutation }) => changedIds(mutation))) {
    const row = known.get(id) ?? rows.lvol(id);
    if (row !== undefined) known.set(row.id, row);
    else if (rows.disk(id) === undefined) unknown.push(id);
  }
  const { lvols, gone } = await readIds(client, policy.nodeId, unknown);
  for (const row of lvols) known.set(row.id, row);
  const { cordoned: nodeCordoned, cordonedDisks, now, revision } = node;
  const disks = new Map(
    [...rows.disks(), ...written.disks].map((row) => {
      const cordoned = cordonedDisks.has(row.id);
      return [row.id, cordoned === row.cordoned ? row : { ...row, cordoned }];
    }),
  );
  const state: AdmissionState = {
    policy,
    limits: { hosts: MAX_HOSTS },
    nodeCordoned,
    now,
    revision,
    lvols: new Map(known),
    gone,
    disks: new Map(disks),
  };
  const outcomes = batch.map((waiting) => ({ waiting, result: decide(state, waiting) }));
  const changed = {
    lvols: [...state.lvols.values()].filter((row) => known.get(row.id) !== row),
    disks: [...state.disks.values()].flatMap((row) =>
      disks.get(row.id) === row ? [] : [{ ...row, revision }],
    ),
  };
  const created = changed.lvols.filter(({ id }) => !known.has(id)).map(({ id }) => id);
  await takeIds(client, policy.nodeId, created);
  await sql.writeIntents(client, changed);
  return { outcomes, ...changed };
}
