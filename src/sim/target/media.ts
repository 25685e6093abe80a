// What lies on the disks: the only thing that outlives the process. A journal per disk, one line per
// change, written before the answer goes out; a torn last line is a change that was never answered.
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { DiskBytes, PAGE_BYTES, type Page, type Run } from "./disk-bytes.ts";
import { Extents } from "./extents.ts";
import { Ranges } from "./ranges.ts";

export type ClearMethod = "none" | "unmap" | "write_zeroes";

/** An lvol as the blobstore has it. */
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
  /** Which of its clusters are its own, and where they lie. */
  allocated: Extents;
};

export type Store = {
  readonly uuid: string;
  name: string;
  readonly clusterBytes: number;
  totalClusters: number;
  readonly clear: ClearMethod;
  /** The disk's cluster that the store's first one for data is; metadata lies before it. */
  readonly firstCluster: number;
  /** Clusters that no blob owns and that are not being cleared either. */
  free: Ranges;
  /** In order of creation. */
  readonly blobs: Map<string, Blob>;
};

export type DiskFacts = {
  readonly serial: string;
  readonly model: string;
  readonly blockSize: number;
  readonly numBlocks: number;
  readonly trtype: string;
  readonly traddr: string;
  readonly trsvcid: string | undefined;
  readonly subnqn: string | undefined;
  /** The byte that a disk which was never written holds everywhere. */
  readonly prefill: number;
  /** What unmapped blocks read as: many drives promise nothing. */
  readonly unmap: "keeps" | "zeroes";
};

const extent = z.tuple([z.number(), z.number(), z.number()]);
const clear = z.enum(["none", "unmap", "write_zeroes"]);

const blobLine = z.object({
  uuid: z.string(),
  name: z.string(),
  clusters: z.number(),
  thin: z.boolean(),
  snapshot: z.boolean(),
  readOnly: z.boolean(),
  clear,
  parent: z.string().optional(),
  extents: z.array(extent).default([]),
});

const line = z.discriminatedUnion("op", [
  z.object({
    op: z.literal("format"),
    uuid: z.string(),
    name: z.string(),
    clusterBytes: z.number(),
    totalClusters: z.number(),
    firstCluster: z.number().default(1),
    clear,
  }),
  z.object({ op: z.literal("rename"), name: z.string() }),
  z.object({ op: z.literal("grow"), totalClusters: z.number() }),
  z.object({ op: z.literal("destroy") }),
  z.object({ op: z.literal("blob"), blob: blobLine }),
  z.object({ op: z.literal("delete"), uuid: z.string() }),
  z.object({ op: z.literal("run"), from: z.number(), end: z.number(), byte: z.number() }),
  z.object({ op: z.literal("page"), page: z.number(), hex: z.string() }),
]);

type Line = z.input<typeof line>;

/** Lines beyond which a journal is written anew at load. */
const COMPACT_LINES = 10_000;

export class Disk {
  readonly facts: DiskFacts;
  readonly #bytes: DiskBytes;
  readonly #path: string | undefined;
  #pending: string[] = [];
  #store: Store | undefined;

  constructor(facts: DiskFacts, stateDir: string | undefined) {
    this.facts = facts;
    this.#bytes = new DiskBytes(facts.prefill);
    if (stateDir === undefined) return;
    mkdirSync(stateDir, { recursive: true });
    this.#path = join(stateDir, `${encodeURIComponent(facts.serial)}.journal`);
    if (existsSync(this.#path)) this.#load(this.#path);
  }

  get store(): Store | undefined {
    return this.#store;
  }

  get bytes(): number {
    return this.facts.blockSize * this.facts.numBlocks;
  }

  format(store: Store): void {
    this.#store = store;
    const { blobs: _blobs, free: _free, ...facts } = store;
    this.#write({ op: "format", ...facts });
  }

  /** The clusters of a new store are cleared as it says. */
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

  /** Clears clusters of its store; "none", and "unmap" where it promises nothing, leave the bytes. */
  clear(store: Store, clusters: Ranges, method: ClearMethod): void {
    if (method === "none" || (method === "unmap" && this.facts.unmap === "keeps")) return;
    const pages = store.clusterBytes / PAGE_BYTES;
    for (const [from, end] of clusters.toJSON()) {
      const first = (store.firstCluster + from) * pages;
      this.#setRun({ from: first, end: first + (end - from) * pages, byte: 0 });
    }
  }

  /** Copies one cluster of its store over another one. */
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
    if (bytes.every((one) => one === byte)) return this.#setRun(run);
    this.#bytes.setPage({ page, bytes });
    this.#write({ op: "page", page, hex: bytes.toString("hex") });
  }

  /** Keeps a blob as it is now. */
  keep(blob: Blob): void {
    this.#store?.blobs.set(blob.uuid, blob);
    this.#write({ op: "blob", blob: blobRecord(blob) });
  }

  remove(uuid: string): void {
    this.#store?.blobs.delete(uuid);
    this.#write({ op: "delete", uuid });
  }

  /** Brings to the file what changed: one write, whatever the number of changes. */
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
    // What stands behind the last newline was cut off: it was never answered.
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
      case "run":
        this.#bytes.setRun(change);
        return;
      case "page":
        this.#bytes.setPage({ page: change.page, bytes: Buffer.from(change.hex, "hex") });
        return;
    }
  }
}

/** After a load: what no blob owns is free, cleared or not. */
function settleFree(store: Store): void {
  const taken = [...store.blobs.values()].map(({ allocated }) => allocated.places);
  const all = taken.reduce((sum, places) => sum.union(places), new Ranges());
  store.free = Ranges.upTo(store.totalClusters).minus(all);
}

function blobRecord(blob: Blob): z.input<typeof blobLine> {
  const { parent, allocated, ...rest } = blob;
  const extents = allocated.toJSON().map((one): [number, number, number] => [...one]);
  return { ...rest, ...(parent === undefined ? {} : { parent }), extents };
}
