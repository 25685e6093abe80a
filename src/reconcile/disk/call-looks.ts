// Looks at disks within calls: the kernel's disks are listed anew, and one of them is looked at.
import type { DiskRow } from "../../model/disk.ts";
import type { Evidence } from "../../model/evidence.ts";
import type { WipeLook } from "../../model/wipe-admission.ts";
import type { Rows } from "../../store/rows.ts";
import type { Controllers } from "../controller/controllers.ts";
import type { ClaimMemory } from "../controller/claim-memory.ts";
import type { Observed } from "../target/observed.ts";
import type { Admissions } from "./admissions.ts";
import { placeOfWipe } from "./wipe.ts";

export type CallLooksOptions = {
  readonly rows: Rows;
  readonly observed: Pick<Observed, "disk">;
  readonly claims: Pick<ClaimMemory, "has">;
  readonly controllers: Pick<Controllers, "topology" | "conflictOf" | "placeOf">;
  readonly admissions: Pick<Admissions, "look">;
  readonly syncKernelDisks: () => Promise<void>;
  readonly wake: (id: string) => void;
};

export class CallLooks {
  readonly #options: CallLooksOptions;

  constructor(options: CallLooksOptions) {
    this.#options = options;
  }

  /** The evidence against a disk without a store of ours; undefined: nobody can look at it where it is. */
  async lookAt(id: string): Promise<readonly Evidence[] | undefined> {
    const { rows, observed, syncKernelDisks } = this.#options;
    const row = rows.disk(id);
    if (row === undefined || row.transport !== "PCIe" || row.lvsUuid !== undefined)
      return undefined;
    // The claim that this process holds found it so, and nobody else had it since.
    if (this.#isClaimedBlank(row)) {
      await syncKernelDisks();
      if (this.#isClaimedBlank(row)) return [];
    }
    if (observed.disk(id) !== undefined) return undefined;
    return await this.#underKernel(row);
  }

  #isClaimedBlank(row: DiskRow): boolean {
    const { claims, controllers } = this.#options;
    return claims.has(row.id, "blank", controllers.placeOf(row)?.address);
  }

  /** As lookAt, with where the disk is, also for a disk with a store of ours. */
  async lookToWipe(id: string): Promise<WipeLook | undefined> {
    const { rows, observed, controllers } = this.#options;
    const row = rows.disk(id);
    if (row?.transport !== "PCIe" || observed.disk(id) !== undefined) return undefined;
    const evidence = await this.#underKernel(row);
    const { topology } = controllers;
    const place = topology && placeOfWipe(topology, row);
    return evidence && place && { ...place, evidence };
  }

  async #underKernel(row: DiskRow): Promise<readonly Evidence[] | undefined> {
    const { controllers, admissions, syncKernelDisks, wake } = this.#options;
    await syncKernelDisks();
    const conflict = controllers.conflictOf(row);
    if (conflict !== undefined) {
      return [{ kind: "DUPLICATE_SERIAL", subject: row.serial, detail: conflict }];
    }
    const evidence = await admissions.look(row.id);
    wake(row.id);
    return evidence;
  }
}
