// Orphans: lvols in lvstores of this fleet, and subsystems with this node's NQN prefix, that no row
// of a volume names. They are listed, counted, and removed by PurgeOrphan only.
import { Refusal } from "./errors.ts";
import type { Intent } from "./intent.ts";

export type Orphan = {
  readonly kind: "lvol" | "subsystem";
  /** Alias `<lvstore name>/<lvol name>` of an lvol, NQN of a subsystem. */
  readonly name: string;
  /** Undefined for a subsystem. */
  readonly uuid: string | undefined;
  readonly diskId: string | undefined;
  readonly sizeBytes: bigint;
  /** Undefined: unknown, as SPDK before 24.05 does not show it for thin lvols. */
  readonly allocatedBytes: bigint | undefined;
  /** Of the subsystem itself, or of the one that shows the lvol. */
  readonly nqn: string | undefined;
  /** When this agent first observed it in this incarnation of the target. */
  readonly firstSeenTime: Date;
  /** The volume id that its name is. */
  readonly likelyOwner: string | undefined;
};

/** What PurgeOrphan is to remove. An lvol is named twice, so that a mistaken call removes nothing. */
export type Purge = {
  readonly reason: string;
  /** Who asked, for the log. */
  readonly actor: string;
} & (
  | { readonly kind: "lvol"; readonly name: string; readonly uuid: string }
  | { readonly kind: "subsystem"; readonly name: string }
);

/** AdoptOrphan: the lvol, and the id of the volume that it is to become. */
export type Adoption = Intent & { readonly uuid: string };

const bytesOf = new WeakMap<readonly Orphan[], ReadonlyMap<string, bigint>>();

/** Allocated bytes of the orphans by disk: their clusters cannot be promised to volumes. */
export function orphanBytes(orphans: readonly Orphan[]): ReadonlyMap<string, bigint> {
  // Every admission asks, about a list that stays the same between two changes of it.
  const known = bytesOf.get(orphans) ?? sumByDisk(orphans);
  bytesOf.set(orphans, known);
  return known;
}

function sumByDisk(orphans: readonly Orphan[]): ReadonlyMap<string, bigint> {
  const bytes = new Map<string, bigint>();
  for (const { diskId, allocatedBytes } of orphans) {
    if (diskId === undefined) continue;
    bytes.set(diskId, (bytes.get(diskId) ?? 0n) + (allocatedBytes ?? 0n));
  }
  return bytes;
}

/** Throws if anything that has a volume's id as its name is on the node, while no row has the id. */
export function refuseOrphans(id: string, orphans: readonly Orphan[]): void {
  const first = orphans.find(({ kind }) => kind === "lvol") ?? orphans[0];
  if (first === undefined) return;
  const named = ({ kind, name, uuid }: Orphan) =>
    `${kind} ${name}${uuid === undefined ? "" : ` (uuid ${uuid})`}`;
  throw new Refusal(
    "ORPHAN_EXISTS",
    `no volume has the id ${id}, and ${orphans.map(named).join(" and ")} is on the node: ListOrphans` +
      " shows it, AdoptOrphan makes an lvol a volume, PurgeOrphan removes it",
    {
      metadata: { kind: first.kind, name: first.name, uuid: first.uuid ?? "" },
      preconditions: orphans.map(({ kind, name }) => ({
        subject: name,
        description: `a ${kind} without a volume`,
      })),
    },
  );
}
