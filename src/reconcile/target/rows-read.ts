// Waits for the rows of the node.
import type { Rows } from "../../store/rows.ts";

/** Resolves once the rows were read from the database or the local copy. */
export async function rowsRead(rows: Rows): Promise<void> {
  // They may have been read while the target was asked for its version.
  if (rows.node !== undefined) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const stop = rows.subscribe(() => {
    if (rows.node !== undefined) resolve();
  });
  await promise;
  stop();
}
