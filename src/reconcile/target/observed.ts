// What the target showed in its current run: one observation shared by all loops and by reads of the
// API. A part that is undefined is not known, and a loop that needs it looks by name. Nothing here
// outlives the run of the target that it was seen in.
import type { LvolSeen, SubsystemSeen, VolumeSeen } from "../../model/lvol.ts";

export type StoreSeen = {
  readonly name: string;
  readonly uuid: string;
  readonly baseBdev: string;
  readonly clusterBytes: bigint;
  readonly totalClusters: bigint;
  readonly freeClusters: bigint;
};

export type DiskOnTarget = {
  readonly controllerName: string;
  readonly bdevName: string;
  readonly serial: string;
  readonly model: string;
  readonly sizeBytes: bigint;
  readonly blockSize: number;
  readonly store: StoreSeen | undefined;
};

/** Ids of volumes whose lvol, or whose subsystem, was seen after a look was sent. */
export type Newer = {
  readonly lvols: ReadonlySet<string>;
  readonly subsystems: ReadonlySet<string>;
  /** The look was taken over, or failed. */
  readonly end: () => void;
};

const NOTHING: VolumeSeen = { lvol: undefined, subsystem: undefined };

export type SeenChange = { readonly kind: "lvol" | "disk"; readonly id: string };

export class Seen {
  readonly #volumes = new Map<string, VolumeSeen>();
  readonly #disks = new Map<string, DiskOnTarget>();
  readonly #onChange: (change: SeenChange) => void;
  /** What was learnt of volumes since looks at everything were sent that are not taken over yet. */
  readonly #looks = new Set<{ readonly lvols: Set<string>; readonly subsystems: Set<string> }>();
  #run: string | undefined;

  constructor(onChange: (change: SeenChange) => void) {
    this.#onChange = onChange;
  }

  /** The run of the target that everything here was seen in; undefined while it is away. */
  get run(): string | undefined {
    return this.#run;
  }

  volume(id: string): VolumeSeen {
    return this.#volumes.get(id) ?? NOTHING;
  }

  disk(id: string): DiskOnTarget | undefined {
    return this.#run === undefined ? undefined : this.#disks.get(id);
  }

  /** A target answered: with another run than before, nothing seen earlier holds any more. */
  startRun(run: string): void {
    if (run !== this.#run) this.#forget();
    this.#run = run;
  }

  /** The target is away. What it held may be gone: all of it is read again when it is back. */
  endRun(): void {
    this.#run = undefined;
    // What was still being read is not taken over.
    this.#looks.clear();
    this.#forget();
  }

  /**
   * A look at everything is about to be sent. What is learnt from now on, of an lvol or of a
   * subsystem, is newer than what that look will show of it.
   */
  beginLook(): Newer {
    const newer = { lvols: new Set<string>(), subsystems: new Set<string>() };
    this.#looks.add(newer);
    return { ...newer, end: () => this.#looks.delete(newer) };
  }

  setLvol(id: string, lvol: LvolSeen | undefined): void {
    for (const { lvols } of this.#looks) lvols.add(id);
    this.#volumes.set(id, { ...this.volume(id), lvol });
    this.#onChange({ kind: "lvol", id });
  }

  setSubsystem(id: string, subsystem: SubsystemSeen | undefined): void {
    for (const { subsystems } of this.#looks) subsystems.add(id);
    this.#volumes.set(id, { ...this.volume(id), subsystem });
    this.#onChange({ kind: "lvol", id });
  }

  setDisk(id: string, disk: DiskOnTarget | undefined): void {
    if (disk === undefined) this.#disks.delete(id);
    else this.#disks.set(id, disk);
    this.#onChange({ kind: "disk", id });
  }

  #forget(): void {
    const volumes = [...this.#volumes.keys()];
    const disks = [...this.#disks.keys()];
    this.#volumes.clear();
    this.#disks.clear();
    for (const id of disks) this.#onChange({ kind: "disk", id });
    for (const id of volumes) this.#onChange({ kind: "lvol", id });
  }
}
