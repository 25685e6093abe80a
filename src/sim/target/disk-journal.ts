// Lines of the journal of a disk: one per change. `late`, `drive` and `trap` are no state of a real disk but
// faults that a test wants after a restart, too.
import { z } from "zod";
import { drive } from "./drive.ts";
import type { Blob } from "./media.ts";

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

export const line = z.discriminatedUnion("op", [
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
  z.object({ op: z.literal("late"), attachMs: z.number(), loadMs: z.number() }),
  z.object({ op: z.literal("drive"), ...drive }),
  z.object({ op: z.literal("trap"), lvol: z.string(), set: z.boolean() }),
  z.object({ op: z.literal("page"), page: z.number(), hex: z.string() }),
]);

export type Line = z.input<typeof line>;

export function blobRecord(blob: Blob): z.input<typeof blobLine> {
  const { parent, allocated, ...rest } = blob;
  const extents = allocated.toJSON().map((one): [number, number, number] => [...one]);
  return { ...rest, ...(parent === undefined ? {} : { parent }), extents };
}
