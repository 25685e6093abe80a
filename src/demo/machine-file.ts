// The machine that `demo --machine FILE` simulates: its drives and what is on them, and what it lacks. Each start is
// a boot: drives are as the file says, with what lay on them before.
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { buildKernelTree, type KernelSpec, type SimulatedDrive } from "../sim/kernel/build-tree.ts";
import { BLOCK_BYTES, demoMachine, GIB, MODEL } from "./demo-disks.ts";

const MIB = 1024n ** 2n;
const ADDRESS = /^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/;

const drive = z.strictObject({
  serial: z.string().regex(/^[\w-]{1,20}$/),
  address: z.string().regex(ADDRESS),
  sizeGib: z.int().min(1).max(1024).default(16),
  /** It has one partition. */
  partitioned: z.boolean().default(false),
  /** Its partition if it has one, else all of it, is mounted there. */
  mountedAt: z.string().startsWith("/").optional(),
  /** Bound to vfio-pci before the agent starts. */
  driver: z.literal("vfio-pci").optional(),
  /** Drives with the same value share an IOMMU group; default: its address. */
  iommuGroup: z.string().optional(),
  locate: z.enum(["function", "port", "enclosure"]).optional(),
});

const machine = z.strictObject({
  iommu: z.boolean().default(true),
  vfioPci: z.boolean().default(true),
  hugepages: z.int().nonnegative().default(1024),
  drives: z.array(drive),
});

/** Without a file: three blank drives, which the agent takes by itself, and which stay as they are over a start. */
export async function chooseMachine(path: string | undefined) {
  const spec = path === undefined ? demoMachine() : await readMachine(path);
  return {
    spec,
    policy: path === undefined ? "auto" : "manual",
    boot: async (root: string) => {
      if (path !== undefined) await powerOff(root);
      await buildKernelTree(root, spec);
    },
  };
}

/** Throws with the faults of the file in its message. */
export async function readMachine(path: string): Promise<KernelSpec> {
  const parsed = machine.safeParse(JSON.parse(await readFile(path, "utf8")));
  if (!parsed.success) throw new Error(`${path}: ${z.prettifyError(parsed.error)}`);
  return { ...parsed.data, drives: parsed.data.drives.map(driveOf) };
}

function driveOf(asked: z.output<typeof drive>): SimulatedDrive {
  const { serial, address, sizeGib, partitioned, mountedAt, driver, iommuGroup, locate } = asked;
  const sizeBytes = BigInt(sizeGib) * GIB;
  const use = mountedAt === undefined ? {} : { use: { kind: "mount", at: mountedAt } as const };
  const partition = { startBytes: MIB, sizeBytes: sizeBytes - 2n * MIB, ...use };
  return {
    serial,
    address,
    model: MODEL,
    iommuGroup: iommuGroup ?? address,
    ...(driver === undefined ? {} : { driver }),
    ...(locate === undefined ? {} : { locate }),
    namespaces: [
      {
        sizeBytes,
        blockSizeBytes: BLOCK_BYTES,
        ...(partitioned ? { partitions: [partition] } : use),
      },
    ],
  };
}

/** What a boot forgets: all but what is on the disks. */
async function powerOff(root: string): Promise<void> {
  for (const folder of ["sys", "proc", "dev", "var/sim/hardware"]) {
    await rm(join(root, folder), { recursive: true, force: true });
  }
}
