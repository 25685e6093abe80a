// The arguments of every command, as parseArgs of Node reads them; an empty one is a mistake, such as a variable
// of a shell that is not set: an empty path would be the current folder.
import { parseArgs, type ParseArgsConfig } from "node:util";

/** Throws an Error whose message names the argument. */
export function parseArguments<T extends ParseArgsConfig>(
  config: T,
): ReturnType<typeof parseArgs<T>> {
  const found = parseArgs(config);
  for (const [name, value] of Object.entries(found.values)) {
    if (value === "" || (Array.isArray(value) && value.includes("")))
      throw new Error(`--${name} must not be empty`);
  }
  const positionals: readonly string[] = found.positionals;
  if (positionals.includes("")) throw new Error("an argument must not be empty");
  return found;
}
