// Taking a PCI function from its kernel driver for SPDK, and giving it back. The kernel refuses none
// of this, not even for a mounted disk, so the caller must hold every namespace of the function
// exclusively and have evidence that allows it. Each act may be repeated from any half-way state.
import { groupBlockers, namespacesOf } from "./disk-evidence.ts";
import { errnoOf } from "./errno.ts";
import type { HeldDevice, Kernel } from "./kernel.ts";
import { listNvme, readDriver, readFunction, type NvmeFunction } from "./nvme.ts";

export type ClaimRefusal =
  | "NO_SUCH_FUNCTION"
  /** Bound to something else than nvme or vfio-pci: whoever did that uses it. */
  | "OTHER_DRIVER"
  | "NO_IOMMU"
  | "IOMMU_GROUP_SHARED"
  | "VFIO_PCI_NOT_LOADED"
  | "NO_HUGEPAGES"
  /** A namespace of the function is not among the held descriptors. */
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
      /** The driver it was taken from; undefined when it had none or was on vfio-pci already. */
      readonly originalDriver: string | undefined;
    }
  | {
      readonly ok: false;
      readonly reason: ClaimRefusal;
      readonly detail: string;
      /** Where the function is now; undefined: with no driver. */
      readonly driver: string | undefined;
    };

export type ReleaseResult =
  | { readonly ok: true; /** Names of its block devices. */ readonly appeared: readonly string[] }
  | { readonly ok: false; readonly reason: ReleaseRefusal; readonly detail: string };

export type ReleaseRefusal = "NO_SUCH_FUNCTION" | "OTHER_DRIVER" | "UNBIND_FAILED" | "BIND_FAILED";

const VFIO_PCI = "vfio-pci";
const KERNEL_DRIVER = "nvme";

const PCI = "/sys/bus/pci";
/** The nvme probe returns 0 to 180 ms before the block devices are there (measured). */
const APPEAR_MS = 2_000;
const LOOK_AGAIN_MS = 20;

/**
 * Binds a function to vfio-pci. `heldDescriptors` are closed as soon as the kernel driver has let
 * go; until then, and when it is refused before that, they stay the caller's to close. On a failure
 * after that the function is given back to the driver it had.
 */
export async function claimForVfio(
  kernel: Kernel,
  pciAddress: string,
  { heldDescriptors }: { readonly heldDescriptors: readonly HeldDevice[] },
): Promise<ClaimResult> {
  const { functions } = await listNvme(kernel);
  const own = functions.find((one) => one.pciAddress === pciAddress);
  if (own === undefined) return await refused(kernel, pciAddress, "NO_SUCH_FUNCTION", "");
  const obstacle = (await obstacleTo(kernel, own)) ?? notHeld(own, heldDescriptors);
  if (obstacle !== undefined) {
    return await refused(kernel, pciAddress, obstacle.reason, obstacle.detail);
  }
  const originalDriver = own.driver === VFIO_PCI ? undefined : own.driver;
  try {
    await takeOver(kernel, own, heldDescriptors);
  } catch (error) {
    if (!(error instanceof Failed)) throw error;
    await releaseToDriver(kernel, pciAddress, originalDriver);
    return await refused(kernel, pciAddress, error.reason, error.message);
  }
  return { ok: true, group: `/dev/vfio/${own.iommuGroup}`, originalDriver };
}

/** What is missing for a claim, before anything is touched; SPDK would answer -19 to all of it. */
async function obstacleTo(
  kernel: Kernel,
  own: Omit<NvmeFunction, "controllers">,
): Promise<{ readonly reason: ClaimRefusal; readonly detail: string } | undefined> {
  if (own.driver !== undefined && own.driver !== KERNEL_DRIVER && own.driver !== VFIO_PCI) {
    return { reason: "OTHER_DRIVER", detail: `${own.pciAddress} has driver ${own.driver}` };
  }
  if (own.iommuGroup === undefined) {
    return { reason: "NO_IOMMU", detail: `${own.pciAddress} has no IOMMU group` };
  }
  const blockers = groupBlockers(own);
  if (blockers.length > 0) {
    const named = blockers.map(({ address, driver }) => `${address} (driver ${driver})`);
    const detail = `IOMMU group ${own.iommuGroup} also holds ${named.join(", ")}`;
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
    return { reason: "NO_HUGEPAGES", detail: "no huge pages are set aside for the target" };
  }
  return undefined;
}

/**
 * Gives a function back to a kernel driver (undefined: to none) from vfio-pci or from none and waits, for 2
 * seconds at most, until its block devices are there. Whoever has it open through vfio must have let
 * go before: the kernel takes it away all the same.
 */
export async function releaseToDriver(
  kernel: Kernel,
  pciAddress: string,
  originalDriver: string | undefined,
): Promise<ReleaseResult> {
  const own = await readFunction(kernel, pciAddress);
  const there = await kernel.realPath(`${PCI}/devices/${pciAddress}`);
  if (there === undefined) {
    return { ok: false, reason: "NO_SUCH_FUNCTION", detail: `${pciAddress} is not there` };
  }
  if (own.driver !== undefined && own.driver !== VFIO_PCI && own.driver !== originalDriver) {
    return { ok: false, reason: "OTHER_DRIVER", detail: `${pciAddress} has driver ${own.driver}` };
  }
  try {
    if (own.driverOverride !== undefined) {
      await kernel.write(`${PCI}/devices/${pciAddress}/driver_override`, "\n");
    }
    if (own.driver === VFIO_PCI) await unbind(kernel, pciAddress);
    if (originalDriver === undefined) return { ok: true, appeared: [] };
    await bind(kernel, pciAddress, originalDriver);
  } catch (error) {
    if (!(error instanceof Failed)) throw error;
    const reason = error.reason === "UNBIND_FAILED" ? "UNBIND_FAILED" : "BIND_FAILED";
    return { ok: false, reason, detail: error.message };
  }
  return { ok: true, appeared: await blockDevices(kernel, pciAddress) };
}

/** A step of a claim failed in a way that has a name. */
class Failed extends Error {
  readonly reason: "UNBIND_FAILED" | "BIND_FAILED" | "NO_GROUP_NODE";

  constructor(reason: Failed["reason"], message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "Failed";
    this.reason = reason;
  }
}

async function takeOver(
  kernel: Kernel,
  own: NvmeFunction,
  heldDescriptors: readonly HeldDevice[],
): Promise<void> {
  const { pciAddress } = own;
  if (own.driver !== VFIO_PCI) {
    // The override comes first: a function without a driver and without it would go back to nvme at
    // the next probe of anybody.
    await attempt("BIND_FAILED", `cannot set driver_override of ${pciAddress}`, async () => {
      await kernel.write(`${PCI}/devices/${pciAddress}/driver_override`, VFIO_PCI);
    });
    if (own.driver !== undefined) await unbind(kernel, pciAddress);
    // Kept any longer they would only make the kernel number the disk anew when it comes back.
    await Promise.all(heldDescriptors.map(async (held) => await held[Symbol.asyncDispose]()));
    await bind(kernel, pciAddress, VFIO_PCI);
  }
  const nodes = await kernel.list("/dev/vfio");
  if (own.iommuGroup === undefined || !nodes.includes(own.iommuGroup)) {
    const what = `/dev/vfio/${own.iommuGroup} did not appear`;
    throw new Failed("NO_GROUP_NODE", `${what}; is /dev the host's?`);
  }
}

async function unbind(kernel: Kernel, pciAddress: string): Promise<void> {
  try {
    await kernel.write(`${PCI}/devices/${pciAddress}/driver/unbind`, pciAddress);
  } catch (error) {
    // Somebody else was faster: what counts is that no driver is left.
    if ((await readDriver(kernel, pciAddress)) === undefined) return;
    const what = `cannot unbind ${pciAddress}: ${errnoOf(error) ?? "error"}`;
    throw new Failed("UNBIND_FAILED", what, { cause: error });
  }
}

/** Probes, and believes only the driver link: the probe succeeds when nothing was bound, too. */
async function bind(kernel: Kernel, pciAddress: string, driver: string): Promise<void> {
  if ((await readDriver(kernel, pciAddress)) === driver) return;
  await attempt("BIND_FAILED", `cannot probe ${pciAddress}`, async () => {
    await kernel.write(`${PCI}/drivers_probe`, pciAddress);
  });
  const bound = await readDriver(kernel, pciAddress);
  if (bound === driver) return;
  if (bound !== undefined) {
    throw new Failed("BIND_FAILED", `${pciAddress} went to driver ${bound}, not to ${driver}`);
  }
  // The same again, addressed to the driver: this one says why not.
  await attempt("BIND_FAILED", `${driver} did not take ${pciAddress}`, async () => {
    await kernel.write(`${PCI}/drivers/${driver}/bind`, pciAddress);
  });
  if ((await readDriver(kernel, pciAddress)) !== driver) {
    throw new Failed("BIND_FAILED", `${driver} did not keep ${pciAddress}`);
  }
}

async function attempt(
  reason: Failed["reason"],
  message: string,
  act: () => Promise<void>,
): Promise<void> {
  try {
    await act();
  } catch (error) {
    throw new Failed(reason, `${message}: ${errnoOf(error) ?? "error"}`, { cause: error });
  }
}

function notHeld(
  own: NvmeFunction,
  held: readonly HeldDevice[],
): { readonly reason: "NOT_HELD"; readonly detail: string } | undefined {
  const missing = namespacesOf(own).filter(
    (ns) => !held.some(({ device, dev }) => device === ns.device && dev === ns.dev),
  );
  if (missing.length === 0) return undefined;
  const names = missing.map(({ kernelName }) => kernelName).join(", ");
  return { reason: "NOT_HELD", detail: `not held exclusively: ${names}` };
}

/**
 * Huge pages set aside, of all sizes. Not the free ones: a target that runs has taken its share.
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

async function blockDevices(kernel: Kernel, pciAddress: string): Promise<readonly string[]> {
  const until = performance.now() + APPEAR_MS;
  for (;;) {
    const { functions } = await listNvme(kernel);
    const own = functions.find((one) => one.pciAddress === pciAddress);
    const live = own?.controllers.every(({ state }) => state === "live") === true;
    const names = own === undefined ? [] : namespacesOf(own).map(({ kernelName }) => kernelName);
    if ((live && names.length > 0) || performance.now() >= until) return names;
    await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS));
  }
}

async function refused(
  kernel: Kernel,
  pciAddress: string,
  reason: ClaimRefusal,
  detail: string,
): Promise<ClaimResult> {
  const driver = await readDriver(kernel, pciAddress);
  return { ok: false, reason, detail: detail || `${pciAddress} is not there`, driver };
}
