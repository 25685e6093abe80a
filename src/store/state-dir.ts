// The local memory of the agent, and whether the folder that it lies in can be used. A folder that is full
// or may not be written is a fault of its own: it is no fault of the database, and ends no lease.
import type { LocalMemory, Remembered } from "../local/local-memory.ts";
import { Component, type StoreStatus } from "./component.ts";

/** What the agent remembers cannot be read, so that it must not take the lease. */
export class StateDirFault extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "StateDirFault";
  }
}

export class StateDir {
  readonly #memory: Pick<LocalMemory, "read" | "write">;
  readonly #folder: string;
  readonly #status = new Component("not written yet", { ok: true });

  constructor(memory: Pick<LocalMemory, "read" | "write">, folder: string) {
    this.#memory = memory;
    this.#folder = folder;
  }

  get status(): StoreStatus {
    return this.#status.status;
  }

  /** What is remembered, undefined if nothing is. Throws StateDirFault. */
  read(): Remembered | undefined {
    try {
      return this.#memory.read();
    } catch (cause) {
      const reason = `${this.#folder} cannot be read: ${messageOf(cause)}`;
      this.#status.set(false, reason);
      throw new StateDirFault(reason, { cause });
    }
  }

  /** Never throws: what could not be written is remembered with the next renewal of the lease. */
  write(remembered: Remembered): void {
    try {
      this.#memory.write(remembered);
      this.#status.set(true, "");
    } catch (error) {
      this.#status.set(false, `${this.#folder} cannot be written: ${messageOf(error)}`);
    }
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
