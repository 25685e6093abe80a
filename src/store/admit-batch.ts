// Admits a batch of intents inside the transaction that writes them, on the rows in memory, which
// equal those of the database, and on the rows that this transaction has written before.
import { namedIds, type AdmissionPolicy, type AdmissionState } from "../model/admission.ts";
import type { ControllerRow } from "../model/controller.ts";
import type { DiskRow } from "../model/disk.ts";
import type { LvolRow } from "../model/lvol.ts";
import type { SnapshotRow } from "../model/snapshot.ts";
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
  readonly snapshots: readonly SnapshotRow[];
  readonly disks: readonly DiskRow[];
  readonly controllers: readonly ControllerRow[];
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
): Promise<{ readonly outcomes: readonly Outcome[]; readonly cordoned: boolean } & Changed> {
  const { node } = written;
  const { cordoned, now, revision } = node;
  if (batch.length === 0) {
    return { outcomes: [], cordoned, lvols: [], snapshots: [], disks: [], controllers: [] };
  }
  const { known, knownSnapshots, unknown } = knownRows(batch, rows, written);
  const { lvols, gone } = await readIds(client, policy.nodeId, unknown);
  for (const row of lvols) known.set(row.id, row);
  const disks = new Map([...rows.disks(), ...written.disks].map((row) => [row.id, row]));
  const controllers = new Map(
    [...rows.controllers(), ...written.controllers].map((row) => [row.id, row]),
  );
  const state: AdmissionState = {
    policy,
    limits: { hosts: MAX_HOSTS },
    nodeCordoned: cordoned,
    now,
    revision,
    lvols: new Map(known),
    snapshots: new Map(knownSnapshots),
    gone,
    disks: new Map(disks),
    controllers: new Map(controllers),
    volumeOfLvol: (uuid) => {
      const isIts = ({ lvolUuid }: LvolRow) => lvolUuid === uuid;
      return [...state.lvols.values()].find(isIts) ?? rows.lvolByUuid(uuid);
    },
  };
  const outcomes = batch.map((waiting) => ({ waiting, result: decide(state, waiting) }));
  const changed = {
    lvols: [...state.lvols.values()].filter((row) => known.get(row.id) !== row),
    snapshots: [...state.snapshots.values()].filter((row) => knownSnapshots.get(row.id) !== row),
    disks: [...state.disks.values()].flatMap((row) =>
      disks.get(row.id) === row ? [] : [{ ...row, revision }],
    ),
    controllers: [...state.controllers.values()].flatMap((row) =>
      controllers.get(row.id) === row ? [] : [{ ...row, revision }],
    ),
  };
  await takeIds(client, policy.nodeId, [
    ...changed.lvols.flatMap(({ id }) => (known.has(id) ? [] : [{ id, kind: "l" } as const])),
    ...changed.snapshots.flatMap(({ id }) =>
      knownSnapshots.has(id) ? [] : [{ id, kind: "s" } as const],
    ),
  ]);
  await sql.writeIntents(client, changed);
  if (state.nodeCordoned !== cordoned) {
    await sql.writeCordon(client, policy.nodeId, state.nodeCordoned);
  }
  return { outcomes, cordoned: state.nodeCordoned, ...changed };
}

type Changed = {
  readonly lvols: readonly LvolRow[];
  readonly snapshots: readonly SnapshotRow[];
  readonly disks: readonly DiskRow[];
  readonly controllers: readonly ControllerRow[];
};

/**
 * The rows that the batch names, those of a whole family where it names a snapshot or what has one, and
 * the ids that have no row in memory.
 */
function knownRows(batch: readonly Waiting[], rows: Rows, written: Written) {
  const known = new Map(written.lvols.map((row) => [row.id, row]));
  const knownSnapshots = new Map(written.snapshots.map((row) => [row.id, row]));
  const unknown: string[] = [];
  const families = new Set<string>();
  for (const id of new Set(batch.flatMap(({ mutation }) => namedIds(mutation)))) {
    const row = known.get(id) ?? rows.lvol(id);
    const snapshot = knownSnapshots.get(id) ?? rows.snapshots.get(id);
    if (row !== undefined) known.set(row.id, row);
    else if (snapshot !== undefined) families.add(snapshot.familyRoot);
    else if (rows.disk(id) === undefined) unknown.push(id);
  }
  for (const { lvols, snapshots } of [...families].map((root) => rows.family(root))) {
    for (const row of lvols) if (!known.has(row.id)) known.set(row.id, row);
    for (const row of snapshots) if (!knownSnapshots.has(row.id)) knownSnapshots.set(row.id, row);
  }
  return { known, knownSnapshots, unknown };
}
