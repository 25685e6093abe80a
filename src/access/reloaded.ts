// The parsed content of files that are replaced while the agent runs. They are looked at by stat(2), as
// file events miss a symbolic link that is switched, which is how Kubernetes replaces them. A content that
// cannot be used leaves the one before in force.
import { readFileSync, statSync } from "node:fs";

/** The files cannot be read or used; the message says which and why. */
export class FileFault extends Error {
  constructor(message: string) {
    super(message);
    this.name = "FileFault";
  }
}

export type Parse<T> = (contents: readonly Buffer[]) => T;

export class Reloaded<T> {
  readonly #paths: readonly string[];
  readonly #parse: Parse<T>;
  /** What stat showed of the files of the present content, or of those that were refused last. */
  #read: string;
  /** What stat showed at the last look, if it was something new. */
  #appeared: string | undefined;
  #value: T;
  #fault: { readonly reason: string; readonly since: Date } | undefined;

  /** Reads the files. Throws FileFault. */
  constructor(paths: readonly string[], parse: Parse<T>) {
    this.#paths = paths;
    this.#parse = parse;
    this.#read = this.#identity();
    this.#value = parse(contentsOf(paths));
  }

  get value(): T {
    return this.#value;
  }

  /** Why the files as they are now are not used; undefined: they are. */
  get fault(): { readonly reason: string; readonly since: Date } | undefined {
    return this.#fault;
  }

  /**
   * Looks at the files, and reads them if they are others than before and were the same at the look
   * before: several that are written one after another count together. Returns whether the value or the
   * fault is a new one.
   */
  look(): boolean {
    const present = this.#identity();
    const settled = present === this.#appeared;
    this.#appeared = present;
    if (present === this.#read || !settled) return false;
    try {
      const value = this.#parse(contentsOf(this.#paths));
      // Replaced while they were read: perhaps a mixture.
      if (this.#identity() !== present) return false;
      this.#value = value;
      this.#fault = undefined;
    } catch (error) {
      if (!(error instanceof FileFault)) throw error;
      this.#fault = { reason: error.message, since: new Date() };
    }
    this.#read = present;
    return true;
  }

  #identity(): string {
    return this.#paths.map(identityOf).join();
  }
}

function contentsOf(paths: readonly string[]): readonly Buffer[] {
  return paths.map((path) => {
    try {
      return readFileSync(path);
    } catch (error) {
      throw new FileFault(`cannot read ${path}: ${messageOf(error)}`);
    }
  });
}

function identityOf(path: string): string {
  try {
    const found = statSync(path, { bigint: true, throwIfNoEntry: false });
    if (found === undefined) return "missing";
    return [found.dev, found.ino, found.size, found.mtimeNs, found.ctimeNs].join(":");
  } catch (error) {
    return messageOf(error);
  }
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
