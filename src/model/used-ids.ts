// Ids of volumes and snapshots that cannot be used again: unique over the fleet, and given once.
import { Refusal } from "./errors.ts";

/** An id that was used, though its row is gone: by a volume or snapshot of this node, or of another. */
export type UsedId = { readonly ours: boolean };

export function otherNode(id: string): Refusal {
  return new Refusal("OTHER_NODE", `id ${id} belongs to another node`);
}

export function idRetired(id: string): Refusal {
  return new Refusal(
    "ID_RETIRED",
    `id ${id} was used by what is deleted or being deleted; use a new id`,
  );
}
