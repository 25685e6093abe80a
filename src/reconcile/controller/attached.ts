// Which PCI functions the target has attached, in its present incarnation, and under which names.
import type { Controller } from "../../spdk/replies-bdev.ts";
import type { Observed } from "../target/observed.ts";

export class Attached {
  readonly #observed: Pick<Observed, "incarnation">;
  readonly #names = new Map<string, string>();
  #incarnation: string | undefined;

  constructor(observed: Pick<Observed, "incarnation">) {
    this.#observed = observed;
  }

  /** The controllers that a scan of this incarnation has listed. */
  scanned(controllers: readonly Controller[]): void {
    this.#incarnation = this.#observed.incarnation;
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
    const { incarnation } = this.#observed;
    return incarnation !== undefined && incarnation === this.#incarnation;
  }
}
