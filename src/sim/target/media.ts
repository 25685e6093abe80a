// Contents of the disks: the only state that survives the process. One journal per disk, one line
// per change, written before the answer is sent; a truncated last line is a change that was not
// answered.
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { z } from "zod";
import { DiskBytes, PAGE_BYTES, type Page, type Run } from "./disk-bytes.ts";
import { changedDrive, HEALTHY_DRIVE, type Drive } from "./drive.ts";
import { blobRecord, line, type Line } from "./disk-journal.ts";
import { Extents } from "./extents.ts";
import { Ranges } from "./ranges.ts";

export type ClearMethod = "none" | "unmap" | "write_zeroes";

/** An lvol as stored in the blobstore. */
export type Blob = {
  readonly uuid: string;
  name: string;
  /** Size in clusters. */
  clusters: number;
  thin: boolean;
  snapshot: boolean;
  readOnly: boolean;
  readonly clear: ClearMethod;
  /** The snapshot this is a clone of. */
  parent: string | undefined;
  /** The clusters allocated to this blob, and the store clusters that hold them. */
  allocated: Extents;
};

export type Store = {
  readonly uuid: string;
  name: string;
  readonly clusterBytes: number;
  totalClusters: number;
  readonly clear: ClearMethod;
  /** Disk cluster of the store's first data cluster; metadata lies before it. */
  readonly firstCluster: number;
  /** Clusters that belong to no blob and are not being cleared. */
  free: Ranges;
  /** In order of creation. */
  readonly blobs: Map<string, Blob>;
};

export type DiskFacts = {
  /** Names the drive and its journal: two drives may show one serial. */
  readonly id: string;
  readonly serial: string;
  readonly model: string;
  /** Disks with one id are the namespaces of one drive. */
  readonly nsid: number;
  readonly blockSize: number;
  readonly numBlocks: number;
  readonly trtype: string;
  readonly traddr: string;
  readonly trsvcid: string | undefined;
  readonly subnqn: string | undefined;
  /** Byte that fills a disk that was never written. */
  readonly prefill: number;
  /** What unmapped blocks read as: their old bytes (many drives guarantee nothing) or zeros. */
  readonly unmap: "keeps" | "zeroes";
};

/** A journal of more lines than this is rewritten when it is loaded. */
const COMPACT_LINES = 10_000;

export class Disk {
  readonly facts: DiskFacts;
  readonly #bytes: DiskBytes;
  readonly #path: string | undefined;
  #pending: string[] = [];
  #store: Store | undefined;
  /** Fault injection: how long an attach takes to find the disk, and then to load its store. */
  #late = { attachMs: 0, loadMs: 0 };
  /** Fault injection: what its health page shows, and how its controller is. */
  #drive: Drive = HEALTHY_DRIVE;
  /** Fault injection: whether the target stops once the copy of a cluster is on the disk. */
  stopsAtCopy: () => boolean = () => false;
  /** Fault injection: lvols whose namespace aborts the target. */
  readonly #traps = new Set<string>();

  constructor(facts: DiskFacts, stateDir: string | undefined) {
    this.facts = facts;
    this.#bytes = new DiskBytes(facts.prefill);
    if (stateDir === undefined) return;
    mkdirSync(stateDir, { recursive: true });
    const name = facts.nsid === 1 ? facts.id : `${facts.id}.${facts.nsid}`;
    this.#path = join(stateDir, `${encodeURIComponent(name)}.journal`);
    if (existsSync(this.#path)) this.#load(this.#path);
  }

  get store(): Store | undefined {
    return this.#store;
  }

  get late(): { readonly attachMs: number; readonly loadMs: number } {
    return this.#late;
  }

  setLate(late: { readonly attachMs: number; readonly loadMs: number }): void {
    this.#late = { ...late };
    this.#write({ op: "late", ...late });
  }

  get drive(): Drive {
    return this.#drive;
  }

  /** What is not named stays as it is. */
  setDrive(change: object): void {
    this.#drive = changedDrive(this.#drive, change);
    this.#write({ op: "drive", ...this.#drive });
  }

  isTrap(lvol: string): boolean {
    return this.#traps.has(lvol);
  }

  setTrap(lvol: string, set: boolean): void {
    if (set) this.#traps.add(lvol);
    else this.#traps.delete(lvol);
    this.#write({ op: "trap", lvol, set });
  }

  get bytes(): number {
    return this.facts.blockSize * this.facts.numBlocks;
  }

  format(store: Store): void {
    this.#store = store;
    const { blobs: _blobs, free: _free, ...facts } = store;
    this.#write({ op: "format", ...facts });
  }

  /** Clears all clusters of a new store with its clear method. */
  clearStore(store: Store): void {
    this.clear(store, Ranges.upTo(store.totalClusters), store.clear);
  }

  destroy(): void {
    this.#store = undefined;
    this.#write({ op: "destroy" });
  }

  renameStore(name: string): void {
    if (this.#store === undefined) return;
    this.#store.name = name;
    this.#write({ op: "rename", name });
  }

  growStore(totalClusters: number): void {
    if (this.#store === undefined || totalClusters <= this.#store.totalClusters) return;
    const before = this.#store.totalClusters;
    this.#store.totalClusters = totalClusters;
    this.#store.free = this.#store.free.union(new Ranges([[before, totalClusters]]));
    this.#write({ op: "grow", totalClusters });
  }

  /**
   * Clears store clusters. "none", and "unmap" on a disk that keeps unmapped bytes, change nothing.
   */
  clear(store: Store, clusters: Ranges, method: ClearMethod): void {
    if (method === "none" || (method === "unmap" && this.facts.unmap === "keeps")) return;
    const pages = store.clusterBytes / PAGE_BYTES;
    for (const [from, end] of clusters.toJSON()) {
      const first = (store.firstCluster + from) * pages;
      this.#setRun({ from: first, end: first + (end - from) * pages, byte: 0 });
    }
  }

  /** Copies one store cluster over another. */
  copyCluster(store: Store, from: number, to: number): void {
    const pages = store.clusterBytes / PAGE_BYTES;
    const [source, goal] = [from, to].map((cluster) => (store.firstCluster + cluster) * pages);
    for (let page = 0; page < pages; page += 1) {
      this.#setPage({ page: (goal ?? 0) + page, bytes: this.#bytes.page((source ?? 0) + page) });
    }
  }

  read(offset: number, length: number): Buffer {
    return this.#bytes.read(offset, length);
  }

  write(offset: number, bytes: Buffer): void {
    for (let at = 0; at < bytes.length;) {
      const page = Math.floor((offset + at) / PAGE_BYTES);
      const within = (offset + at) % PAGE_BYTES;
      const count = Math.min(bytes.length - at, PAGE_BYTES - within);
      const changed = Buffer.from(this.#bytes.page(page));
      bytes.copy(changed, within, at, at + count);
      this.#setPage({ page, bytes: changed });
      at += count;
    }
  }

  #setRun(run: Run): void {
    if (!this.#bytes.differsFrom(run)) return;
    this.#bytes.setRun(run);
    this.#write({ op: "run", ...run });
  }

  #setPage({ page, bytes }: Page): void {
    const [byte = 0] = bytes;
    const run = { from: page, end: page + 1, byte };
    if (bytes.equals(Buffer.alloc(bytes.length, byte))) return this.#setRun(run);
    this.#bytes.setPage({ page, bytes });
    this.#write({ op: "page", page, hex: bytes.toString("hex") });
  }

  /** Records the current state of a blob. */
  keep(blob: Blob): void {
    this.#store?.blobs.set(blob.uuid, blob);
    this.#write({ op: "blob", blob: blobRecord(blob) });
  }

  remove(uuid: string): void {
    this.#store?.blobs.delete(uuid);
    this.#write({ op: "delete", uuid });
  }

  /** Appends all pending changes to the journal in one write. */
  flush(): void {
    if (this.#pending.length === 0) return;
    const lines = this.#pending.join("");
    this.#pending = [];
    if (this.#path !== undefined) appendFileSync(this.#path, lines);
  }

  #write(change: Line): void {
    if (this.#path !== undefined) this.#pending.push(`${JSON.stringify(change)}\n`);
  }

  #load(path: string): void {
    const lines = readFileSync(path, "utf8").split("\n");
    // Text after the last newline is a truncated change that was not answered.
    const torn = lines.pop() ?? "";
    for (const one of lines) this.#apply(line.parse(JSON.parse(one)));
    if (this.#store !== undefined) settleFree(this.#store);
    if (torn !== "" || lines.length > COMPACT_LINES) this.#compact(path);
  }

  #compact(path: string): void {
    const store = this.#store;
    for (const one of this.#bytes.changes()) {
      if ("page" in one) {
        this.#write({ op: "page", page: one.page, hex: one.bytes.toString("hex") });
      } else this.#write({ op: "run", ...one });
    }
    this.setLate(this.#late);
    this.setDrive({});
    for (const lvol of this.#traps) this.setTrap(lvol, true);
    if (store !== undefined) {
      this.format(store);
      for (const blob of store.blobs.values()) this.keep(blob);
    }
    writeFileSync(`${path}.new`, this.#pending.join(""));
    this.#pending = [];
    renameSync(`${path}.new`, path);
  }

  #apply(change: z.output<typeof line>): void {
    switch (change.op) {
      case "format": {
        const { op: _op, ...store } = change;
        this.#store = { ...store, free: new Ranges(), blobs: new Map() };
        return;
      }
      case "rename":
        if (this.#store !== undefined) this.#store.name = change.name;
        return;
      case "grow":
        if (this.#store !== undefined) this.#store.totalClusters = change.totalClusters;
        return;
      case "destroy":
        this.#store = undefined;
        return;
      case "blob": {
        const { parent, extents, ...blob } = change.blob;
        const kept = { ...blob, parent, allocated: new Extents(extents) };
        this.#store?.blobs.set(kept.uuid, kept);
        return;
      }
      case "delete":
        this.#store?.blobs.delete(change.uuid);
        return;
      case "late":
        this.#late = change;
        return;
      case "drive":
        this.#drive = changedDrive(HEALTHY_DRIVE, change);
        return;
      case "trap":
        if (change.set) this.#traps.add(change.lvol);
        else this.#traps.delete(change.lvol);
        return;
      case "run":
        this.#bytes.setRun(change);
        return;
      case "page":
        this.#bytes.setPage({ page: change.page, bytes: Buffer.from(change.hex, "hex") });
        return;
    }
  }
}

/** After a load: every cluster that no blob owns is free, cleared or not. */
function settleFree(store: Store): void {
  const taken = [...store.blobs.values()].map(({ allocated }) => allocated.places);
  const all = taken.reduce((sum, places) => sum.union(places), new Ranges());
  store.free = Ranges.upTo(store.totalClusters).minus(all);
}
