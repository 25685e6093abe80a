// What the target showed in its current run: one observation shared by all loops and by reads of the
// API. A part that is undefined is not known, and a loop that needs it looks by name. Nothing here
// outlives the run of the target that it was seen in.
import type { ObservedLvol, ObservedSubsystem, ObservedVolume } from "../../model/lvol.ts";

export type ObservedStore = {
  readonly name: string;
  readonly uuid: string;
  readonly baseBdev: string;
  readonly clusterBytes: bigint;
  readonly totalClusters: bigint;
  readonly freeClusters: bigint;
};

export type ObservedDisk = {
  readonly controllerName: string;
  readonly bdevName: string;
  readonly serial: string;
  readonly model: string;
  readonly sizeBytes: bigint;
  readonly blockSize: number;
  readonly store: ObservedStore | undefined;
};

/** Ids of volumes whose lvol, or whose subsystem, was seen after a look was sent. */
export type ObservedSince = {
  readonly lvols: ReadonlySet<string>;
  readonly subsystems: ReadonlySet<string>;
  /** The look was taken over, or failed. */
  readonly end: () => void;
};

const NOTHING: ObservedVolume = { lvol: undefined, subsystem: undefined };

export type ObservedChange = { readonly kind: "lvol" | "disk"; readonly id: string };

export class Observed {
  readonly #volumes = new Map<string, ObservedVolume>();
  readonly #disks = new Map<string, ObservedDisk>();
  readonly #onChange: (change: ObservedChange) => void;
  /** What was learnt of volumes since looks at everything were sent that are not taken over yet. */
  readonly #openScans = new Set<{
    readonly lvols: Set<string>;
    readonly subsystems: Set<string>;
  }>();
  #incarnation: string | undefined;

  constructor(onChange: (change: ObservedChange) => void) {
    this.#onChange = onChange;
  }

  /** The run of the target that everything here was seen in; undefined while it is away. */
  get incarnation(): string | undefined {
    return this.#incarnation;
  }

  volume(id: string): ObservedVolume {
    return this.#volumes.get(id) ?? NOTHING;
  }

  disk(id: string): ObservedDisk | undefined {
    return this.#incarnation === undefined ? undefined : this.#disks.get(id);
  }

  /** A target answered: with another run than before, nothing seen earlier holds any more. */
  beginIncarnation(incarnation: string): void {
    if (incarnation !== this.#incarnation) this.#forget();
    this.#incarnation = incarnation;
  }

  /** The target is away. What it held may be gone: all of it is read again when it is back. */
  endIncarnation(): void {
    this.#incarnation = undefined;
    // What was still being read is not taken over.
    this.#openScans.clear();
    this.#forget();
  }

  /**
   * A look at everything is about to be sent. What is learnt from now on, of an lvol or of a
   * subsystem, is newer than what that look will show of it.
   */
  beginScan(): ObservedSince {
    const observedSince = { lvols: new Set<string>(), subsystems: new Set<string>() };
    this.#openScans.add(observedSince);
    return { ...observedSince, end: () => this.#openScans.delete(observedSince) };
  }

  setLvol(id: string, lvol: ObservedLvol | undefined): void {
    for (const { lvols } of this.#openScans) lvols.add(id);
    this.#volumes.set(id, { ...this.volume(id), lvol });
    this.#onChange({ kind: "lvol", id });
  }

  setSubsystem(id: string, subsystem: ObservedSubsystem | undefined): void {
    for (const { subsystems } of this.#openScans) subsystems.add(id);
    this.#volumes.set(id, { ...this.volume(id), subsystem });
    this.#onChange({ kind: "lvol", id });
  }

  setDisk(id: string, disk: ObservedDisk | undefined): void {
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
