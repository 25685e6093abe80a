// Which PCI functions the target has attached, in its present incarnation, and under which names; and which
// of them this agent is attaching.
import type { Controller } from "../../spdk/replies-bdev.ts";
import type { Rows } from "../../store/rows.ts";
import type { Observed } from "../target/observed.ts";

export type AttachedOptions = {
  readonly observed: Pick<Observed, "incarnation">;
  readonly rows: Pick<Rows, "disks">;
  /** Of a disk. */
  readonly wake: (id: string) => void;
};

export class Attached {
  readonly #options: AttachedOptions;
  readonly #names = new Map<string, string>();
  readonly #attaching = new Set<string>();
  #incarnation: string | undefined;

  constructor(options: AttachedOptions) {
    this.#options = options;
  }

  /** Runs an attach, with all that is read after it: until its end, any disk may turn out to be there. */
  async whileAttaching<T>(address: string, attach: () => Promise<T>): Promise<T> {
    this.#attaching.add(address);
    try {
      return await attach();
    } finally {
      this.#attaching.delete(address);
      for (const { id } of this.#options.rows.disks()) this.#options.wake(id);
    }
  }

  isAttaching(address: string): boolean {
    return this.#attaching.has(address);
  }

  /** The controllers that a scan of this incarnation has listed. */
  scanned(controllers: readonly Controller[]): void {
    this.#incarnation = this.#options.observed.incarnation;
    this.#names.clear();
    for (const { name, paths } of controllers) {
      for (const { trid } of paths) {
        if (trid.trtype?.toUpperCase() === "PCIE" && trid.traddr !== undefined) {
          this.#names.set(trid.traddr, name);
        }
      }
    }
  }

  detached(name: string): void {
    for (const [address, known] of this.#names) if (known === name) this.#names.delete(address);
  }

  nameAt(address: string): string | undefined {
    return this.#isCurrent() ? this.#names.get(address) : undefined;
  }

  addressOf(name: string): string | undefined {
    if (!this.#isCurrent()) return undefined;
    for (const [address, known] of this.#names) if (known === name) return address;
    return undefined;
  }

  #isCurrent(): boolean {
    const { incarnation } = this.#options.observed;
    return incarnation !== undefined && incarnation === this.#incarnation;
  }
}
