// What this machine remembers of its database, in a small file outside of it: a database that is behind
// it is not the one we knew (empty, restored, lagging), and nothing may be concluded from its rows.
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";

export type Remembered = {
  readonly nodeId: string;
  readonly fleet: string;
  /** Highest lease epoch that was ours. */
  readonly epoch: bigint;
  /** Highest revision that was committed or read. */
  readonly revision: bigint;
};

const file = z.object({
  nodeId: z.string(),
  fleet: z.string(),
  epoch: z.string().transform(BigInt),
  revision: z.string().transform(BigInt),
});

export class LocalMemory {
  readonly #path: string;
  readonly #folder: string;

  constructor(stateDir: string) {
    this.#folder = stateDir;
    this.#path = join(stateDir, "node.json");
  }

  /** Undefined: nothing is remembered. Throws on a file that is not readable as what it should be. */
  read(): Remembered | undefined {
    let text: string;
    try {
      text = readFileSync(this.#path, "utf8");
    } catch (error) {
      if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
      throw error;
    }
    try {
      return file.parse(JSON.parse(text));
    } catch (cause) {
      throw new Error(`${this.#path} is damaged; what was remembered is lost`, { cause });
    }
  }

  /** Replaces the file as a whole: killed or without power in between, the old one is still there. */
  write(remembered: Remembered): void {
    const { nodeId, fleet, epoch, revision } = remembered;
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    const text = { nodeId, fleet, epoch: epoch.toString(), revision: revision.toString() };
    const next = `${this.#path}.new`;
    writeFileSync(next, `${JSON.stringify(text)}\n`, { flush: true });
    renameSync(next, this.#path);
  }
}

/** Why a database is not the one that was remembered; undefined if it can be. */
export function unlikeRemembered(
  remembered: Remembered | undefined,
  database: Pick<Remembered, "epoch" | "revision">,
): string | undefined {
  if (remembered === undefined) return undefined;
  const { epoch, revision } = remembered;
  if (database.revision >= revision && database.epoch >= epoch) return undefined;
  return (
    `the database is behind what this node knew: revision ${database.revision} after ${revision}, ` +
    `epoch ${database.epoch} after ${epoch}; see "storage-node rebuild"`
  );
}
