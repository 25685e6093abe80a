// A simulated kernel over a temporary folder.
import { open } from "node:fs/promises";
import { join } from "node:path";
import { imagePath } from "../../src/sim/kernel/hardware.ts";
import { buildKernelTree, type KernelSpec } from "../../src/sim/kernel/build-tree.ts";
import {
  openSimulatedKernel,
  type SimulatedKernel,
} from "../../src/sim/kernel/simulated-kernel.ts";
import { inspectForClaim } from "../../src/sysfs/disk-evidence.ts";
import type { Kernel } from "../../src/sysfs/kernel.ts";
import { listNvme, type NvmeFunction } from "../../src/sysfs/nvme.ts";
import { claimFunctions, type ClaimResult } from "../../src/sysfs/vfio.ts";
import { temporaryFolder } from "./temporary-folder.ts";

export const MIB = 1024n * 1024n;
export const A = "0000:00:04.0";
export const B = "0000:00:05.0";

/** Two drives, 04.0 in group 2 and 05.0 in group 3. */
export const TWO_DRIVES: KernelSpec = {
  drives: [drive(A, "SIMA", "2"), drive(B, "SIMB", "3")],
};

export function drive(address: string, serial: string, iommuGroup: string) {
  const namespaces = [{ sizeBytes: 64n * MIB }];
  return { address, serial, model: "Simulated NVMe", iommuGroup, namespaces };
}

export type KernelScenario = AsyncDisposable & {
  readonly root: string;
  readonly kernel: SimulatedKernel;
  /** Writes to the start of a drive's first namespace, as its host would. */
  readonly writeBytes: (drive: string, bytes: Uint8Array) => Promise<void>;
};

export async function kernelScenario(spec: KernelSpec = TWO_DRIVES): Promise<KernelScenario> {
  const folder = await temporaryFolder();
  await buildKernelTree(folder.path, spec);
  const kernel = await openSimulatedKernel(folder.path, { appearMs: 5 });
  return {
    root: folder.path,
    kernel,
    writeBytes: async (id, bytes) => {
      await using file = await open(join(folder.path, imagePath(id, 1)), "r+");
      await file.write(bytes, 0, bytes.length, 0);
    },
    [Symbol.asyncDispose]: async () => {
      await kernel[Symbol.asyncDispose]();
      await folder[Symbol.asyncDispose]();
    },
  };
}

/** Claims functions for vfio-pci: lists, inspects, holds their devices open, rebinds. */
export async function claim(
  kernel: Kernel,
  address: string,
  others: readonly string[] = [],
): Promise<ClaimResult> {
  await using observed = await inspectForClaim(kernel, await listNvme(kernel), address);
  const heldDescriptors = observed.held;
  return await claimFunctions(kernel, [address, ...others], { heldDescriptors });
}

export async function functionAt(kernel: Kernel, address: string): Promise<NvmeFunction> {
  const { functions } = await listNvme(kernel);
  const found = functions.find(({ pciAddress }) => pciAddress === address);
  if (found === undefined) throw new Error(`no function ${address}`);
  return found;
}

/** Driver, driver_override and serials of a drive, from the listing. */
export async function stateOf(kernel: Kernel, address: string) {
  const { driver, driverOverride, controllers } = await functionAt(kernel, address);
  const serials = controllers.flatMap(({ namespaces }) => namespaces.map(({ serial }) => serial));
  return { driver, driverOverride, serials };
}
