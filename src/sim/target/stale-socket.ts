// Removes what an exited process has left at the path of its socket, and nothing else.
import { lstatSync, rmSync } from "node:fs";

/** Throws if something else than a socket is there. */
export function removeStaleSocket(path: string): void {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (!found.isSocket()) throw new Error(`${path} is not a socket: it is left as it is`);
  rmSync(path);
}
