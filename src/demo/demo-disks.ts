// The three disks of the demo, and how the drives of a simulated machine are described to the simulated target.
import type { KernelSpec } from "../sim/kernel/build-tree.ts";

export const GIB = 1024n ** 3n;
export const BLOCK_BYTES = 4096;
export const MODEL = "SIMULATED NVME";

const DEMO_DISKS = [
  { address: "0000:01:00.0", serial: "DEMO00000001", sizeBytes: 100n * GIB },
  { address: "0000:02:00.0", serial: "DEMO00000002", sizeBytes: 100n * GIB },
  { address: "0000:03:00.0", serial: "DEMO00000003", sizeBytes: 200n * GIB },
] as const;

export function demoMachine(): KernelSpec {
  return {
    drives: DEMO_DISKS.map(({ address, serial, sizeBytes }, index) => ({
      address,
      serial,
      model: MODEL,
      iommuGroup: `${index + 1}`,
      namespaces: [{ sizeBytes, blockSizeBytes: BLOCK_BYTES }],
    })),
  };
}

/** The drives in the format of `sim --disks`. */
export function targetDisks({ drives }: KernelSpec): readonly object[] {
  return drives.flatMap(({ address, serial, model, namespaces }) =>
    namespaces.map(({ sizeBytes }, index) => ({
      serial,
      model,
      nsid: index + 1,
      block_size: BLOCK_BYTES,
      num_blocks: Number(sizeBytes / BigInt(BLOCK_BYTES)),
      trtype: "PCIe",
      traddr: address,
    })),
  );
}
