// Writes a recorded kernel state to a folder. Block devices become sparse files of their size;
// other device nodes and files without recorded data become empty files.
import { mkdirSync, readFileSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";

export const RECORDED_STATES = [
  "kernel-bound",
  "vfio-loaded",
  "unbound",
  "vfio-bound",
  "vfio-bound-shared-group",
  "no-iommu",
  "no-iommu-bind-failed",
  "noiommu-mode",
  "multipath",
  "nvme-tcp",
] as const;

export type RecordedState = (typeof RECORDED_STATES)[number];

const recording = z.object({
  entries: z.record(
    z.string(),
    z.discriminatedUnion("t", [
      z.object({ t: z.literal("d") }),
      z.object({ t: z.literal("l"), to: z.string() }),
      z.object({ t: z.literal("f"), mode: z.string(), data: z.string().optional() }),
      z.object({ t: z.literal("b"), dev: z.string() }),
      z.object({ t: z.literal("c"), dev: z.string() }),
    ]),
  ),
});

export type Entries = z.infer<typeof recording>["entries"];

const FOLDER = fileURLToPath(new URL("../fixtures/sysfs/", import.meta.url));

async function recordedEntries(state: RecordedState): Promise<Entries> {
  return recording.parse(JSON.parse(await readFile(join(FOLDER, `${state}.json`), "utf8"))).entries;
}

export async function materialise(state: RecordedState, root: string): Promise<void> {
  const entries = await recordedEntries(state);
  // Synchronous calls: for a thousand small files they are much faster than the thread pool.
  const created = new Set<string>();
  const folder = (path: string) => {
    if (!created.has(path)) mkdirSync(path, { recursive: true });
    created.add(path);
  };
  for (const [path, entry] of Object.entries(entries)) {
    const at = join(root, path);
    folder(entry.t === "d" ? at : dirname(at));
    if (entry.t === "l") {
      // Make an absolute target relative, so that it stays inside the folder.
      const inside = entry.to.startsWith("/") ? relative(dirname(path), entry.to) : entry.to;
      symlinkSync(inside, at);
    } else if (entry.t === "f") writeFileSync(at, entry.data ?? "");
    else if (entry.t !== "d") writeFileSync(at, "");
  }
  for (const [path, entry] of Object.entries(entries)) {
    if (entry.t !== "b") continue;
    const name = path.slice("/dev/".length);
    const sectors = readFileSync(join(root, "sys/class/block", name, "size"), "utf8");
    truncateSync(join(root, path), Number(sectors) * 512);
  }
}
