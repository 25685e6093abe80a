// The file of the local copy. It is replaced as a whole or appended to, and readable for its owner only.
// A copy that cannot be kept up to date is worse than none: it is invalidated then, and stays so until
// it is replaced.
import { readFileSync } from "node:fs";
import { mkdir, open, rename, rm, truncate, type FileHandle } from "node:fs/promises";
import { join } from "node:path";

export class CopyFile implements AsyncDisposable {
  readonly path: string;
  readonly #folder: string;
  #handle: FileHandle | undefined;
  #unsynced = false;

  constructor(stateDir: string) {
    this.#folder = stateDir;
    this.path = join(stateDir, "copy.jsonl");
  }

  /** The text of the file, empty if there is none. Throws if it cannot be read. */
  read(): string {
    try {
      return readFileSync(this.path, "utf8");
    } catch (error) {
      if (isAbsent(error)) return "";
      throw error;
    }
  }

  /** Replaces the file: after a crash or a power failure it has its old or its new content. */
  async replace(text: string): Promise<void> {
    await this.#close();
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    const next = `${this.path}.new`;
    // A file that is left over keeps its mode when it is opened.
    await rm(next, { force: true });
    const handle = await open(next, "wx", 0o600);
    try {
      await handle.writeFile(text);
      await handle.datasync();
      await rename(next, this.path);
      await syncFolder(this.#folder);
    } catch (error) {
      await handle.close();
      throw error;
    }
    this.#handle = handle;
    this.#unsynced = false;
  }

  /** Appends to the file that `replace` made. */
  async append(text: string): Promise<void> {
    if (this.#handle === undefined) throw new Error(`${this.path} was not written yet`);
    this.#unsynced = true;
    await this.#handle.appendFile(text);
  }

  /** What was appended outlasts a power failure. */
  async sync(): Promise<void> {
    if (!this.#unsynced) return;
    await this.#handle?.datasync();
    this.#unsynced = false;
  }

  /** Nothing is restored from the file any more, also after a power failure. Throws if it may be. */
  async invalidate(): Promise<void> {
    await this.#close();
    try {
      // Empty, it says nothing, and this works in a folder that cannot be written.
      await truncate(this.path);
      await syncFile(this.path);
      await syncFolder(this.#folder);
    } catch (error) {
      if (isAbsent(error)) return;
      await rm(this.path, { force: true });
      await syncFolder(this.#folder);
    }
  }

  async #close(): Promise<void> {
    const handle = this.#handle;
    this.#handle = undefined;
    await handle?.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#close();
  }
}

async function syncFolder(path: string): Promise<void> {
  await syncFile(path, "r");
}

async function syncFile(path: string, flags = "r+"): Promise<void> {
  const handle = await open(path, flags);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function isAbsent(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ENOENT";
}
