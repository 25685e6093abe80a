// Notices that another node has raised the revision of this one, as it has taken over rows (moved-disks.ts),
// where nothing is written here that would show it.
import type { Rows } from "./rows.ts";

export class OtherWriters {
  /** The revision of the database at the last renewal, if the rows in memory were behind it. */
  #ahead: bigint | undefined;

  /** At each renewal of the lease, with the revision that it has read. */
  renewed(
    { rows, writer }: { readonly rows: Rows; readonly writer: { readonly refresh: () => void } },
    revision: bigint,
  ): void {
    const own = rows.node?.revision ?? 0n;
    // What was a commit of this agent is in its rows by now.
    if (this.#ahead !== undefined && own < this.#ahead) writer.refresh();
    this.#ahead = revision > own ? revision : undefined;
  }
}
