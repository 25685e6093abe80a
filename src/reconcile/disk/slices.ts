// The slices of free space that are on each disk, in memory: lvols over clusters that are to be zeroed.
// What was found, made and deleted while the store was loaded, which it is anew in each incarnation of the target
// and each time that its disk comes back; unknown until they were listed.
import {
  isOfZeroing,
  zeroingFiller,
  zeroingFillerIndex,
  zeroingSlice,
  zeroingSliceIndex,
} from "../../model/identity.ts";
import type { DiskRow } from "../../model/disk.ts";
import { rateOf } from "../../model/zeroing.ts";
import type { Rows } from "../../store/rows.ts";
import { nameOf } from "../target/lvol-alias.ts";
import type { Observed, ReadMark } from "../target/observed.ts";

export type Slice = {
  readonly uuid: string;
  readonly name: string;
  readonly bytes: bigint;
  /** It holds zeroed clusters for a moment, and is not cleared when it is deleted. */
  readonly isFiller: boolean;
};

type Listed = {
  readonly uuid: string;
  readonly alias: string;
  readonly allocatedClusters: bigint | undefined;
};

export type ListedSlice = Listed & { readonly store: { readonly uuid: string } };

/** Whether an lvol is a slice, by its alias. */
function isSlice(alias: string): boolean {
  return isOfZeroing(nameOf(alias));
}

/** What was zeroed of a disk in this incarnation, and how long it took. */
type Measured = { bytes: bigint; ms: number; rests: Date | undefined };

type OfDisk = {
  readonly incarnation: string;
  /** When the store was loaded that they are in. */
  readonly loaded: Date;
  readonly slices: Map<string, Slice>;
  /** Uuids of slices that are gone: a list that was read before may still have them. */
  readonly gone: Set<string>;
  nextIndex: number;
  totalBytes: bigint;
  zeroedBytes: bigint;
  /** Of slices that are gone, while no read of free clusters shows it. */
  returned: readonly { readonly bytes: bigint; readonly mark: ReadMark }[];
};

type SlicesObserved = Pick<
  Observed,
  "incarnation" | "disk" | "storeSince" | "freeReadMark" | "isFreeReadSince"
>;

export class Slices {
  readonly #observed: SlicesObserved;
  readonly #disks = new Map<string, OfDisk>();
  readonly #measured = new Map<string, Measured>();

  constructor(observed: SlicesObserved) {
    this.#observed = observed;
  }

  /** Smaller ones first; undefined until they were listed since the store was loaded. */
  of(diskId: string): readonly Slice[] | undefined {
    const all = this.#of(diskId)?.slices.values();
    return (
      all && [...all].toSorted((a, b) => (a.bytes === b.bytes ? 0 : a.bytes < b.bytes ? -1 : 1))
    );
  }

  /** All lvols of its lvstore were listed. */
  found(diskId: string, lvols: readonly Listed[], clusterBytes: bigint | undefined): void {
    const { incarnation } = this.#observed;
    if (incarnation === undefined) return;
    const none = { nextIndex: 0, totalBytes: 0n, zeroedBytes: 0n, returned: [] };
    const loaded = this.#observed.storeSince(diskId);
    const sets = { slices: new Map<string, Slice>(), gone: new Set<string>() };
    this.#disks.set(diskId, { incarnation, loaded, ...sets, ...none });
    for (const lvol of lvols) if (isSlice(lvol.alias)) this.#add(diskId, lvol, clusterBytes);
  }

  #add(
    diskId: string,
    { uuid, alias, allocatedClusters }: Listed,
    clusterBytes: bigint | undefined,
  ) {
    const name = nameOf(alias);
    const isFiller = zeroingFillerIndex(name) !== undefined;
    const bytes = (allocatedClusters ?? 0n) * (clusterBytes ?? 0n);
    this.add(diskId, { uuid, name, isFiller, bytes });
  }

  /** Lvols of a full scan, of any store. The disks with slices that are known only by it. */
  applyScan(rows: Rows, lvols: readonly ListedSlice[]): readonly string[] {
    const slices = lvols.filter(({ alias }) => isSlice(alias));
    return [...rows.disks()].flatMap(({ id, lvsUuid, clusterBytes }) => {
      const loaded = this.#observed.disk(id)?.store?.uuid;
      if (loaded === undefined || loaded !== lvsUuid) return [];
      if (this.#of(id) === undefined) this.found(id, [], clusterBytes);
      const of = this.#of(id);
      // Of an agent before this one, whose request came through late.
      const others = slices.filter(
        ({ uuid, store }) =>
          store.uuid === lvsUuid && of?.slices.has(uuid) === false && !of.gone.has(uuid),
      );
      for (const one of others) this.#add(id, one, clusterBytes);
      return others.length > 0 ? [id] : [];
    });
  }

  add(diskId: string, slice: Slice): void {
    const of = this.#of(diskId);
    // A scan may show it before the answer to its creation comes.
    if (of === undefined || of.slices.has(slice.uuid)) return;
    of.slices.set(slice.uuid, slice);
    const index = zeroingSliceIndex(slice.name) ?? zeroingFillerIndex(slice.name) ?? 0;
    of.nextIndex = Math.max(of.nextIndex, index + 1);
    if (!slice.isFiller) of.totalBytes += slice.bytes;
  }

  remove(diskId: string, uuid: string): void {
    const of = this.#of(diskId);
    const slice = of?.slices.get(uuid);
    if (of === undefined || slice === undefined) return;
    of.slices.delete(uuid);
    of.gone.add(uuid);
    const { freeReadMark: mark } = this.#observed;
    of.returned = [...this.#returned(diskId, of), { bytes: slice.bytes, mark }];
    if (!slice.isFiller) of.zeroedBytes += slice.bytes;
  }

  /** What the number of free clusters lacks as zeroing holds it; until slices were listed, as recorded. */
  heldBytes({ id, zeroing }: Pick<DiskRow, "id" | "zeroing">): bigint {
    const of = this.#of(id);
    if (of === undefined)
      return zeroing === undefined ? 0n : zeroing.totalBytes - zeroing.zeroedBytes;
    const all = [...of.slices.values(), ...this.#returned(id, of)];
    return all.reduce((sum, { bytes }) => sum + bytes, 0n);
  }

  #returned(diskId: string, { returned }: OfDisk): OfDisk["returned"] {
    return returned.filter(({ mark }) => !this.#observed.isFreeReadSince(diskId, mark));
  }

  /** Names that no slice of the disk has had since they were listed. */
  newNames(diskId: string, count: number): readonly string[] {
    const of = this.#of(diskId);
    if (of === undefined) return [];
    const from = of.nextIndex;
    of.nextIndex += count;
    return Array.from({ length: count }, (_, index) => zeroingSlice(from + index));
  }

  newFillerName(diskId: string): string {
    const of = this.#of(diskId);
    if (of === undefined) return "";
    of.nextIndex += 1;
    return zeroingFiller(of.nextIndex - 1);
  }

  /** Since they were listed. */
  progress(diskId: string): { readonly zeroedBytes: bigint; readonly totalBytes: bigint } {
    const { zeroedBytes = 0n, totalBytes = 0n } = this.#of(diskId) ?? {};
    return { zeroedBytes, totalBytes };
  }

  /** A slice was zeroed; until then nothing more is that nobody has asked for. */
  measured(diskId: string, took: { readonly bytes: bigint; readonly ms: number }, rests: Date) {
    const before = this.#measured.get(diskId) ?? { bytes: 0n, ms: 0, rests: undefined };
    const bytes = before.bytes + took.bytes;
    this.#measured.set(diskId, { bytes, ms: before.ms + took.ms, rests });
  }

  /** Bytes per second since zeroing of the disk began last; undefined: nothing was zeroed. */
  rate(diskId: string): bigint | undefined {
    const { bytes = 0n, ms = 0 } = this.#measured.get(diskId) ?? {};
    return bytes === 0n ? undefined : rateOf(bytes, ms);
  }

  rests(diskId: string): Date | undefined {
    return this.#measured.get(diskId)?.rests;
  }

  beginMeasuring(diskId: string): void {
    this.#measured.delete(diskId);
  }

  forget(diskId: string): void {
    this.#disks.delete(diskId);
  }

  #of(diskId: string): OfDisk | undefined {
    const of = this.#disks.get(diskId);
    if (of?.incarnation !== this.#observed.incarnation) return undefined;
    return of?.loaded === this.#observed.storeSince(diskId) ? of : undefined;
  }
}
