// The clone families of the lvols in one store, as the target shows them: who is a clone of whom. Pure.
import type { FoundLvol } from "./found.ts";

/** Families by the name of each member: the root that a row of a member names, else one of the names. */
export function familyRoots(
  lvols: readonly FoundLvol[],
  known: ReadonlyMap<string, { readonly familyRoot: string }>,
): ReadonlyMap<string, string> {
  const parents = new Map(lvols.map(({ name, parent }) => [name, parent]));
  const topOf = (name: string): string => {
    const parent = parents.get(name);
    return parent === undefined || parent === name ? name : topOf(parent);
  };
  const rootOfTop = new Map<string, string>();
  for (const { name } of lvols) {
    const root = known.get(name)?.familyRoot;
    if (root !== undefined) rootOfTop.set(topOf(name), root);
  }
  return new Map(
    lvols.map(({ name }) => {
      const top = topOf(name);
      return [name, rootOfTop.get(top) ?? top];
    }),
  );
}
