// What the intents about disks refuse in the same words: a disk that is not there, is another one than the
// caller has meant, cannot be looked at, or has evidence against it. Each throws a Refusal. Pure.
import { evidenceText } from "./disk-claim.ts";
import type { DiskRow } from "./disk.ts";
import { Refusal } from "./errors.ts";
import type { Evidence } from "./evidence.ts";

type Disks = { readonly disks: ReadonlyMap<string, DiskRow> };

export function diskOf({ disks }: Disks, id: string): DiskRow {
  const disk = disks.get(id);
  if (disk === undefined) throw new Refusal("NOT_FOUND", `disk ${id} is not on this node`);
  return disk;
}

/** Named twice, so that a mistaken call concerns no other disk. */
export function namedDisk(
  state: Disks,
  { id, serial }: { readonly id: string; readonly serial: string },
): DiskRow {
  const disk = diskOf(state, id);
  if (disk.serial === serial) return disk;
  const message = `disk ${id} has serial number ${disk.serial}, not ${serial}`;
  throw new Refusal("SERIAL_MISMATCH", message);
}

export function refuseUnseen({ id, address, driver }: DiskRow): never {
  const message =
    `disk ${id} cannot be looked at where it is (${address}, driver ${driver ?? "none"}), so nobody ` +
    `knows what is on it`;
  throw new Refusal("HAS_EVIDENCE", message, { metadata: { evidence: "NOT_READY" } });
}

/** Lists all of it. */
export function refuseAgainst({ id }: DiskRow, against: readonly Evidence[]): void {
  if (against.length === 0) return;
  const texts = against.map(evidenceText);
  throw new Refusal("HAS_EVIDENCE", `disk ${id}: ${texts.join("; ")}`, {
    metadata: { evidence: against.map(({ kind }) => kind).join(",") },
    preconditions: texts.map((description) => ({ subject: `disks/${id}`, description })),
  });
}
