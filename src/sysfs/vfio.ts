// Claims a PCI function for SPDK (nvme driver to vfio-pci) and releases it to a kernel driver. The
// kernel refuses none of this, not even for a mounted disk
// (docs/kernel.md#what-the-kernel-does-not-refuse), so the caller must hold every namespace of the
// function exclusively and have evidence that allows the claim. Both operations may be repeated
// after a crash at any point.
import { groupBlockers, namespacesOf } from "./disk-evidence.ts";
import { errnoOf } from "./errno.ts";
import type { HeldDevice, Kernel } from "./kernel.ts";
import { listNvme, readDriver, readFunction, type NvmeFunction } from "./nvme.ts";

export type ClaimRefusal =
  | "NO_SUCH_FUNCTION"
  /** Bound to a driver other than nvme and vfio-pci: another program may be using it. */
  | "OTHER_DRIVER"
  | "NO_IOMMU"
  | "IOMMU_GROUP_SHARED"
  | "VFIO_PCI_NOT_LOADED"
  | "NO_HUGEPAGES"
  /** A namespace of the function is missing in heldDescriptors. */
  | "NOT_HELD"
  | "UNBIND_FAILED"
  | "BIND_FAILED"
  /** Bound, but /dev/vfio has no node for the group. */
  | "NO_GROUP_NODE";

export type ClaimResult =
  | {
      readonly ok: true;
      /** `/dev/vfio/<group>` */
      readonly group: string;
      /** Driver before the claim; undefined if it had none or was bound to vfio-pci already. */
      readonly originalDriver: string | undefined;
    }
  | {
      readonly ok: false;
      readonly reason: ClaimRefusal;
      readonly detail: string;
      /** Driver of the function now; undefined if it has none. */
      readonly driver: string | undefined;
    };

export type ReleaseResult =
  | { readonly ok: true; /** Names of its block devices. */ readonly appeared: readonly string[] }
  | { readonly ok: false; readonly reason: ReleaseRefusal; readonly detail: string };

export type ReleaseRefusal = "NO_SUCH_FUNCTION" | "OTHER_DRIVER" | "UNBIND_FAILED" | "BIND_FAILED";

const VFIO_PCI = "vfio-pci";
const KERNEL_DRIVER = "nvme";

const PCI = "/sys/bus/pci";
/** A probe returns up to 180 ms before the block devices (docs/kernel.md#probing-nvme-again). */
const APPEAR_MS = 2_000;
const POLL_MS = 20;

/**
 * Binds a function to vfio-pci. Closes `heldDescriptors` as soon as the kernel driver is unbound;
 * if the claim fails before that, the caller has to close them. On a failure after the first write
 * the function is released to the driver it had.
 */
export async function claimForVfio(
  kernel: Kernel,
  pciAddress: string,
  { heldDescriptors }: { readonly heldDescriptors: readonly HeldDevice[] },
): Promise<ClaimResult> {
  const { functions } = await listNvme(kernel);
  const pciFunction = functions.find((each) => each.pciAddress === pciAddress);
  if (pciFunction === undefined) return await refused(kernel, pciAddress, "NO_SUCH_FUNCTION", "");
  const obstacle =
    (await claimObstacle(kernel, pciFunction)) ?? notHeld(pciFunction, heldDescriptors);
  if (obstacle !== undefined) {
    return await refused(kernel, pciAddress, obstacle.reason, obstacle.detail);
  }
  const originalDriver = pciFunction.driver === VFIO_PCI ? undefined : pciFunction.driver;
  try {
    await moveToVfio(kernel, pciFunction, heldDescriptors);
  } catch (error) {
    if (!(error instanceof StepFailure)) throw error;
    await releaseToDriver(kernel, pciAddress, originalDriver);
    return await refused(kernel, pciAddress, error.reason, error.message);
  }
  return { ok: true, group: `/dev/vfio/${pciFunction.iommuGroup}`, originalDriver };
}

/**
 * Checks the preconditions of a claim without a write; for each of them SPDK would only answer -19.
 */
async function claimObstacle(
  kernel: Kernel,
  pciFunction: Omit<NvmeFunction, "controllers">,
): Promise<{ readonly reason: ClaimRefusal; readonly detail: string } | undefined> {
  if (
    pciFunction.driver !== undefined &&
    pciFunction.driver !== KERNEL_DRIVER &&
    pciFunction.driver !== VFIO_PCI
  ) {
    return {
      reason: "OTHER_DRIVER",
      detail: `${pciFunction.pciAddress} has driver ${pciFunction.driver}`,
    };
  }
  if (pciFunction.iommuGroup === undefined) {
    return { reason: "NO_IOMMU", detail: `${pciFunction.pciAddress} has no IOMMU group` };
  }
  const blockers = groupBlockers(pciFunction);
  if (blockers.length > 0) {
    const named = blockers.map(({ address, driver }) => `${address} (driver ${driver})`);
    const detail = `IOMMU group ${pciFunction.iommuGroup} also holds ${named.join(", ")}`;
    return { reason: "IOMMU_GROUP_SHARED", detail };
  }
  const [attributes, hugepages] = await Promise.all([
    kernel.list(`${PCI}/drivers/${VFIO_PCI}`),
    countHugepages(kernel),
  ]);
  if (attributes.length === 0) {
    return { reason: "VFIO_PCI_NOT_LOADED", detail: "kernel module vfio-pci is not loaded" };
  }
  if (hugepages === 0) {
    return { reason: "NO_HUGEPAGES", detail: "no huge pages are reserved for the target" };
  }
  return undefined;
}

/**
 * Releases a function that is bound to vfio-pci or to no driver to a kernel driver (undefined:
 * leaves it without a driver) and waits at most 2 s until its block devices exist. A process that
 * uses it through vfio must have closed it before: the kernel unbinds it without asking.
 */
export async function releaseToDriver(
  kernel: Kernel,
  pciAddress: string,
  originalDriver: string | undefined,
): Promise<ReleaseResult> {
  const pciFunction = await readFunction(kernel, pciAddress);
  const path = await kernel.realPath(`${PCI}/devices/${pciAddress}`);
  if (path === undefined) {
    return { ok: false, reason: "NO_SUCH_FUNCTION", detail: `no PCI function ${pciAddress}` };
  }
  if (
    pciFunction.driver !== undefined &&
    pciFunction.driver !== VFIO_PCI &&
    pciFunction.driver !== originalDriver
  ) {
    return {
      ok: false,
      reason: "OTHER_DRIVER",
      detail: `${pciAddress} has driver ${pciFunction.driver}`,
    };
  }
  try {
    if (pciFunction.driverOverride !== undefined) {
      await kernel.write(`${PCI}/devices/${pciAddress}/driver_override`, "\n");
    }
    if (pciFunction.driver === VFIO_PCI) await unbind(kernel, pciAddress);
    if (originalDriver === undefined) return { ok: true, appeared: [] };
    await bind(kernel, pciAddress, originalDriver);
  } catch (error) {
    if (!(error instanceof StepFailure)) throw error;
    const reason = error.reason === "UNBIND_FAILED" ? "UNBIND_FAILED" : "BIND_FAILED";
    return { ok: false, reason, detail: error.message };
  }
  return { ok: true, appeared: await waitForBlockDevices(kernel, pciAddress) };
}

/** A step of a claim or a release failed; `reason` says which. */
class StepFailure extends Error {
  readonly reason: "UNBIND_FAILED" | "BIND_FAILED" | "NO_GROUP_NODE";

  constructor(reason: StepFailure["reason"], message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "StepFailure";
    this.reason = reason;
  }
}

async function moveToVfio(
  kernel: Kernel,
  pciFunction: NvmeFunction,
  heldDescriptors: readonly HeldDevice[],
): Promise<void> {
  const { pciAddress } = pciFunction;
  if (pciFunction.driver !== VFIO_PCI) {
    // Set the override before the unbind: without it any probe binds a driverless function to nvme
    // again.
    await attempt("BIND_FAILED", `cannot set driver_override of ${pciAddress}`, async () => {
      await kernel.write(`${PCI}/devices/${pciAddress}/driver_override`, VFIO_PCI);
    });
    if (pciFunction.driver !== undefined) await unbind(kernel, pciAddress);
    // Close them now: an open descriptor makes the kernel give the disk another name on its return.
    await Promise.all(heldDescriptors.map(async (held) => await held[Symbol.asyncDispose]()));
    await bind(kernel, pciAddress, VFIO_PCI);
  }
  const nodes = await kernel.list("/dev/vfio");
  if (pciFunction.iommuGroup === undefined || !nodes.includes(pciFunction.iommuGroup)) {
    const what = `/dev/vfio/${pciFunction.iommuGroup} did not appear`;
    throw new StepFailure("NO_GROUP_NODE", `${what}; check that /dev is the host's`);
  }
}

async function unbind(kernel: Kernel, pciAddress: string): Promise<void> {
  try {
    await kernel.write(`${PCI}/devices/${pciAddress}/driver/unbind`, pciAddress);
  } catch (error) {
    // Another process may have unbound it first: no driver is what was wanted.
    if ((await readDriver(kernel, pciAddress)) === undefined) return;
    const what = `cannot unbind ${pciAddress}: ${errnoOf(error) ?? "error"}`;
    throw new StepFailure("UNBIND_FAILED", what, { cause: error });
  }
}

/** Probes and checks the driver link, because a probe also succeeds if no driver was bound. */
async function bind(kernel: Kernel, pciAddress: string, driver: string): Promise<void> {
  if ((await readDriver(kernel, pciAddress)) === driver) return;
  await attempt("BIND_FAILED", `cannot probe ${pciAddress}`, async () => {
    await kernel.write(`${PCI}/drivers_probe`, pciAddress);
  });
  const bound = await readDriver(kernel, pciAddress);
  if (bound === driver) return;
  if (bound !== undefined) {
    throw new StepFailure(
      "BIND_FAILED",
      `${pciAddress} is bound to driver ${bound}, not to ${driver}`,
    );
  }
  // The bind attribute of the driver, unlike the probe, fails with the errno of the driver.
  await attempt("BIND_FAILED", `${driver} did not bind ${pciAddress}`, async () => {
    await kernel.write(`${PCI}/drivers/${driver}/bind`, pciAddress);
  });
  if ((await readDriver(kernel, pciAddress)) !== driver) {
    throw new StepFailure("BIND_FAILED", `${driver} did not stay bound to ${pciAddress}`);
  }
}

async function attempt(
  reason: StepFailure["reason"],
  message: string,
  act: () => Promise<void>,
): Promise<void> {
  try {
    await act();
  } catch (error) {
    throw new StepFailure(reason, `${message}: ${errnoOf(error) ?? "error"}`, { cause: error });
  }
}

function notHeld(
  pciFunction: NvmeFunction,
  held: readonly HeldDevice[],
): { readonly reason: "NOT_HELD"; readonly detail: string } | undefined {
  const missing = namespacesOf(pciFunction).filter(
    (ns) => !held.some(({ device, dev }) => device === ns.device && dev === ns.dev),
  );
  if (missing.length === 0) return undefined;
  const names = missing.map(({ kernelName }) => kernelName).join(", ");
  return { reason: "NOT_HELD", detail: `not held exclusively: ${names}` };
}

/**
 * Number of reserved huge pages of all sizes, in use or free: a running target already uses some.
 */
async function countHugepages(kernel: Kernel): Promise<number> {
  const at = "/sys/kernel/mm/hugepages";
  const sizes = await kernel.list(at);
  const [meminfo, ...counts] = await Promise.all([
    kernel.read("/proc/meminfo"),
    ...sizes.map(async (size) => await kernel.read(`${at}/${size}/nr_hugepages`)),
  ]);
  const total = /^HugePages_Total:\s+(\d+)/m.exec(meminfo ?? "")?.[1];
  return [total, ...counts].reduce((sum, count) => sum + Number(count ?? 0), 0);
}

/**
 * Waits up to APPEAR_MS for block devices of live controllers, and returns the kernel names found.
 */
async function waitForBlockDevices(kernel: Kernel, pciAddress: string): Promise<readonly string[]> {
  const until = performance.now() + APPEAR_MS;
  for (;;) {
    const { functions } = await listNvme(kernel);
    const pciFunction = functions.find((each) => each.pciAddress === pciAddress);
    const live = pciFunction?.controllers.every(({ state }) => state === "live") === true;
    const names =
      pciFunction === undefined
        ? []
        : namespacesOf(pciFunction).map(({ kernelName }) => kernelName);
    if ((live && names.length > 0) || performance.now() >= until) return names;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

async function refused(
  kernel: Kernel,
  pciAddress: string,
  reason: ClaimRefusal,
  detail: string,
): Promise<ClaimResult> {
  const driver = await readDriver(kernel, pciAddress);
  return { ok: false, reason, detail: detail || `no NVMe function ${pciAddress}`, driver };
}
