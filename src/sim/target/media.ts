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
  /** Which of its clusters are its own. */
  allocated: Ranges;
};

export type Store = {
  readonly uuid: string;
  name: string;
  readonly clusterBytes: number;
  totalClusters: number;
  readonly clear: ClearMethod;
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
};

const range = z.tuple([z.number(), z.number()]);
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
  allocated: z.array(range),
});

const line = z.discriminatedUnion("op", [
  z.object({
    op: z.literal("format"),
    uuid: z.string(),
    name: z.string(),
    clusterBytes: z.number(),
    totalClusters: z.number(),
    clear,
  }),
  z.object({ op: z.literal("rename"), name: z.string() }),
  z.object({ op: z.literal("grow"), totalClusters: z.number() }),
  z.object({ op: z.literal("destroy") }),
  z.object({ op: z.literal("blob"), blob: blobLine }),
  z.object({ op: z.literal("delete"), uuid: z.string() }),
]);

type Line = z.input<typeof line>;

/** Lines beyond which a journal is written anew at load. */
const COMPACT_LINES = 10_000;

export class Disk {
  readonly facts: DiskFacts;
  readonly #path: string | undefined;
  #pending: string[] = [];
  #store: Store | undefined;

  constructor(facts: DiskFacts, stateDir: string | undefined) {
    this.facts = facts;
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
    const { uuid, name, clusterBytes, totalClusters, clear: method } = store;
    this.#write({ op: "format", uuid, name, clusterBytes, totalClusters, clear: method });
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
    this.#store.totalClusters = totalClusters;
    this.#write({ op: "grow", totalClusters });
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
    if (torn !== "" || lines.length > COMPACT_LINES) this.#compact(path);
  }

  #compact(path: string): void {
    const store = this.#store;
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
        this.#store = { ...store, blobs: new Map() };
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
        const { parent, allocated, ...blob } = change.blob;
        const kept = { ...blob, parent, allocated: new Ranges(allocated) };
        this.#store?.blobs.set(kept.uuid, kept);
        return;
      }
      case "delete":
        this.#store?.blobs.delete(change.uuid);
        return;
    }
  }
}

function blobRecord(blob: Blob): z.input<typeof blobLine> {
  const { parent, allocated, ...rest } = blob;
  const ranges = allocated.toJSON().map(([from, end]): [number, number] => [from, end]);
  return { ...rest, ...(parent === undefined ? {} : { parent }), allocated: ranges };
}
