// An lvol's alias is `<lvstore name>/<lvol name>`; names of our lvstores have no slash.

export function partsOf({ aliases: [alias = ""] }: { readonly aliases: readonly string[] }): {
  readonly store: string;
  readonly name: string;
} {
  const slash = Math.max(alias.indexOf("/"), 0);
  return { store: alias.slice(0, slash), name: alias.slice(slash + 1) };
}

export function nameOf(alias: string): string {
  return partsOf({ aliases: [alias] }).name;
}
