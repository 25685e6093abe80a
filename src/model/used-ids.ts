// Refusals of ids that are in use elsewhere, or were used before.
import { Refusal } from "./errors.ts";

export function otherNode(id: string): Refusal {
  return new Refusal("OTHER_NODE", `id ${id} belongs to another node`);
}

export function idRetired(id: string): Refusal {
  return new Refusal("ID_RETIRED", `id ${id} was used by what is deleted or being deleted`);
}
