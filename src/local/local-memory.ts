// The local memory: the highest lease epoch and revision that this node has known, in a small file
// outside of the database. A database that is behind them is empty, restored or lagging, and the
// agent must not act on its rows.
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";

export type Remembered = {
  readonly nodeId: string;
  readonly fleet: string;
  /** Highest lease epoch that an agent of this node acquired. */
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

  /** The content of the file, undefined if there is none. Throws if it cannot be read or parsed. */
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
      throw new Error(`${this.#path} is damaged: it cannot be parsed`, { cause });
    }
  }

  /**
   * Replaces the file atomically: after a crash or a power failure it has its old or new content.
   */
  write(remembered: Remembered): void {
    const { nodeId, fleet, epoch, revision } = remembered;
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    const text = { nodeId, fleet, epoch: epoch.toString(), revision: revision.toString() };
    const next = `${this.#path}.new`;
    writeFileSync(next, `${JSON.stringify(text)}\n`, { flush: true });
    renameSync(next, this.#path);
  }
}

/** With the revision that was read since, if that is higher. */
export function atLeast(
  remembered: Remembered | undefined,
  revision: bigint | undefined,
): Remembered | undefined {
  if (remembered === undefined || revision === undefined) return remembered;
  return revision > remembered.revision ? { ...remembered, revision } : remembered;
}

/** Why a database is older than the one that was remembered; undefined if it is not. */
export function unlikeRemembered(
  remembered: Remembered | undefined,
  database: Pick<Remembered, "epoch" | "revision">,
): string | undefined {
  if (remembered === undefined) return undefined;
  const { epoch, revision } = remembered;
  if (database.revision >= revision && database.epoch >= epoch) return undefined;
  return (
    `the database is behind what this node knew: its revision is ${database.revision}, known is ` +
    `${revision}; its epoch is ${database.epoch}, known is ${epoch}; see "storage-node rebuild"`
  );
}
