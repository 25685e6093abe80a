// What looks at disks under their kernel drivers have found since the agent started. A look disturbs
// nobody (sysfs/disk-evidence.ts); nothing is known of a disk that no kernel driver shows.
import { saysOfDisk } from "../../model/disk-claim.ts";
import type { Evidence } from "../../model/evidence.ts";
import { gatherEvidence, type InspectOptions } from "../../sysfs/disk-evidence.ts";
import type { Kernel } from "../../sysfs/kernel.ts";
import type { NvmeTopology } from "../../sysfs/nvme.ts";
import { EVIDENCE_MS } from "../../limits.ts";

type Look = { readonly evidence: readonly Evidence[]; readonly atMs: number };

/** How many acts have begun and ended that change the driver of a disk's controller. */
type Moves = { readonly begun: number; readonly ended: number };

const NO_MOVES: Moves = { begun: 0, ended: 0 };

export class Looks {
  readonly #kernel: Kernel;
  readonly #options: InspectOptions | undefined;
  readonly #latest = new Map<string, Look>();
  /** Of disks without evidence in every look: when the first one was. */
  readonly #cleanSince = new Map<string, number>();
  readonly #tainted = new Set<string>();
  readonly #moves = new Map<string, Moves>();

  constructor(kernel: Kernel, options: InspectOptions | undefined) {
    this.#kernel = kernel;
    this.#options = options;
  }

  /** As found by the latest look under the present driver; undefined: there was none, or that is being changed. */
  evidence(id: string): readonly Evidence[] | undefined {
    return this.#isMoving(id) ? undefined : this.#latest.get(id)?.evidence;
  }

  isDue(id: string): boolean {
    const last = this.#latest.get(id);
    return last === undefined || performance.now() - last.atMs >= EVIDENCE_MS;
  }

  /** For how long every look has found nothing against the disk, in ms; undefined: one has. */
  cleanForMs(id: string): number | undefined {
    const since = this.#cleanSince.get(id);
    return since === undefined ? undefined : performance.now() - since;
  }

  /** Undefined: its controller changed its driver meanwhile, so that what was seen is of neither driver. */
  async look(
    id: string,
    topology: NvmeTopology,
    address: string,
  ): Promise<readonly Evidence[] | undefined> {
    const atMs = performance.now();
    const before = this.#moves.get(id) ?? NO_MOVES;
    if (this.#isMoving(id)) return undefined;
    const evidence = await gatherEvidence(this.#kernel, topology, address, this.#options);
    if ((this.#moves.get(id) ?? NO_MOVES).begun > before.begun) return undefined;
    this.#latest.set(id, { evidence, atMs });
    this.found(id, evidence);
    return evidence;
  }

  /** Evidence that was found by a look or by a claim. */
  found(id: string, evidence: readonly Evidence[]): void {
    if (evidence.some(saysOfDisk)) this.#tainted.add(id);
    if (this.#tainted.has(id)) this.#cleanSince.delete(id);
    else if (!this.#cleanSince.has(id)) this.#cleanSince.set(id, performance.now());
  }

  /**
   * An act after which the controllers of these disks may have other drivers, even if it fails. They are listed after
   * it; until then a look at one of the disks says nothing.
   */
  async whileMoved<T>(
    ids: readonly string[],
    act: () => Promise<T>,
    list: () => Promise<void>,
  ): Promise<T> {
    this.#moved(ids, { begun: 1, ended: 0 });
    try {
      const [result] = await Promise.allSettled([act()]);
      await list();
      if (result.status === "rejected") throw result.reason;
      return result.value;
    } finally {
      this.#moved(ids, { begun: 0, ended: 1 });
      for (const id of ids) this.forget(id);
    }
  }

  #isMoving(id: string): boolean {
    const { begun, ended } = this.#moves.get(id) ?? NO_MOVES;
    return ended < begun;
  }

  #moved(ids: readonly string[], more: Moves): void {
    for (const id of ids) {
      const { begun, ended } = this.#moves.get(id) ?? NO_MOVES;
      this.#moves.set(id, { begun: begun + more.begun, ended: ended + more.ended });
    }
  }

  /** The disk has another driver or another place: what was seen of it says nothing any more. */
  forget(id: string): void {
    this.#latest.delete(id);
  }
}
