// Which disks have a change in their volumes' or snapshots' rows that may leave old bytes in free clusters:
// an index, as a disk may have thousands of rows with pending ops.
import { dirtOf, isDirt, type MayLeaveDirt } from "../model/pending-op.ts";

type Row = MayLeaveDirt & { readonly id: string; readonly diskId: string };

export class DirtIndex {
  readonly #byId = new Map<string, { readonly diskId: string; readonly dirt: string }>();
  /** Number of rows by disk and by what they may leave. */
  readonly #counts = new Map<string, Map<string, number>>();

  set(row: Row): void {
    this.delete(row.id);
    const dirt = dirtOf(row);
    if (dirt === undefined) return;
    this.#byId.set(row.id, { diskId: row.diskId, dirt });
    const counts = this.#counts.get(row.diskId) ?? new Map<string, number>();
    counts.set(dirt, (counts.get(dirt) ?? 0) + 1);
    this.#counts.set(row.diskId, counts);
  }

  delete(id: string): void {
    const known = this.#byId.get(id);
    if (known === undefined) return;
    this.#byId.delete(id);
    const counts = this.#counts.get(known.diskId);
    const left = (counts?.get(known.dirt) ?? 0) - 1;
    if (left > 0) counts?.set(known.dirt, left);
    else counts?.delete(known.dirt);
  }

  /** Whether free clusters of the disk may hold data that such a change was to clear. */
  has(diskId: string, incarnation: string | undefined): boolean {
    for (const dirt of this.#counts.get(diskId)?.keys() ?? []) {
      if (isDirt(dirt, incarnation)) return true;
    }
    return false;
  }
}
