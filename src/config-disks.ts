// Settings about disks: the allow list, and the file of disks that are reached over NVMe-oF.
import { readFileSync } from "node:fs";
import { z } from "zod";

export type FabricDisk = {
  readonly serial: string;
  readonly nsid: number;
  readonly trtype: "TCP" | "RDMA";
  readonly traddr: string;
  readonly trsvcid: string;
  readonly subnqn: string;
  /**
   * Permits formatting; without it a fabric disk, which cannot be inspected, is never formatted.
   */
  readonly format: boolean;
  /** Whether discarded blocks read as zeros, as the operator asserts; undefined: as AdmitDisk says. */
  readonly discardZeroes: boolean | undefined;
};

export type DiskPattern = {
  readonly field: "serial" | "model" | "address";
  readonly glob: string;
};

const fabricDisk = z
  .strictObject({
    serial: z.string().min(1).max(20),
    nsid: z.number().int().min(1).default(1),
    trtype: z.enum(["TCP", "RDMA"]),
    traddr: z.string().min(1),
    trsvcid: z.string().regex(/^\d+$/),
    subnqn: z.string().startsWith("nqn."),
    format: z.boolean().default(false),
    discard_zeroes: z.boolean().optional(),
  })
  .transform(({ discard_zeroes: discardZeroes, ...entry }) => ({ ...entry, discardZeroes }));

export function diskPatterns(list: string, faults: string[]): DiskPattern[] {
  const patterns: DiskPattern[] = [];
  for (const part of list.split(",").map((item) => item.trim())) {
    if (part === "") continue;
    const match = /^(serial|model|address):(.+)$/.exec(part);
    const field = match?.[1];
    const glob = match?.[2];
    if ((field === "serial" || field === "model" || field === "address") && glob !== undefined) {
      patterns.push({ field, glob });
    } else {
      faults.push(
        `STORAGE_NODE_DISK_ALLOW: "${part}" is not serial:GLOB, model:GLOB or address:GLOB`,
      );
    }
  }
  return patterns;
}

export function readFabricDisks(path: string, faults: string[]): FabricDisk[] {
  if (path === "") return [];
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    faults.push(`STORAGE_NODE_FABRIC_DISKS: cannot read ${path}: ${why}`);
    return [];
  }
  const parsed = z.array(fabricDisk).safeParse(json);
  for (const issue of parsed.error?.issues ?? []) {
    faults.push(`STORAGE_NODE_FABRIC_DISKS: ${path}: [${issue.path.join(".")}] ${issue.message}`);
  }
  const disks = parsed.data ?? [];
  const keys = disks.map((disk) => `${disk.serial}/${disk.nsid}`);
  if (new Set(keys).size !== keys.length) {
    faults.push(`STORAGE_NODE_FABRIC_DISKS: ${path} names a serial and nsid twice`);
  }
  return disks;
}

/** Whether a disk is on the allow list; an empty list allows none. */
export function isAllowed(
  patterns: readonly DiskPattern[],
  disk: { readonly serial: string; readonly model: string; readonly address: string },
): boolean {
  return patterns.some(({ field, glob }) => globMatches(glob, disk[field]));
}

/** `*` stands for any characters, `?` for one; everything else for itself. */
function globMatches(glob: string, value: string): boolean {
  const source = glob
    .replace(/[.+^${}()|[\]\\]/g, "\\$&")
    .replaceAll("*", ".*")
    .replaceAll("?", ".");
  return new RegExp(`^${source}$`).test(value);
}
