// Takes PCI functions for SPDK (nvme driver to vfio-pci) and gives them back to their kernel drivers, all
// that go together at once (closure.ts). The kernel refuses none of this, not even for a mounted disk
// (docs/kernel.md#what-the-kernel-does-not-refuse), so the caller must hold every namespace of the
// functions exclusively and have evidence that allows the claim. Both may be repeated after a crash at
// any point.
import { groupBlockers, namespacesIn, namespacesOf } from "./closure.ts";
import { errnoOf } from "./errno.ts";
import type { HeldDevice, Kernel } from "./kernel.ts";
import { listNvme, readDriver, readFunction, type NvmeFunction } from "./nvme.ts";
import { UNBIND_MS } from "../limits.ts";

export type ClaimRefusal =
  | "NO_SUCH_FUNCTION"
  /** Bound to a driver other than nvme and vfio-pci: another program may be using it. */
  | "OTHER_DRIVER"
  /** Somebody has said which driver is to have it. */
  | "DRIVER_OVERRIDE"
  | "NO_IOMMU"
  | "IOMMU_GROUP_SHARED"
  | "VFIO_PCI_NOT_LOADED"
  | "NO_HUGEPAGES"
  /** A namespace of the functions is missing in heldDescriptors. */
  | "NOT_HELD"
  | "UNBIND_FAILED"
  | "BIND_FAILED"
  /** Bound, but /dev/vfio has no node for the group. */
  | "NO_GROUP_NODE";

export type ClaimResult =
  | { readonly ok: true }
  | { readonly ok: false; readonly reason: ClaimRefusal; readonly detail: string };

export type ReleaseResult =
  | { readonly ok: true; /** Names of their block devices. */ readonly appeared: readonly string[] }
  | { readonly ok: false; readonly reason: ReleaseRefusal; readonly detail: string };

export type ReleaseRefusal =
  | "NO_SUCH_FUNCTION"
  | "OTHER_DRIVER"
  /** Of a new probe: a namespace of the functions is missing in heldDescriptors. */
  | "NOT_HELD"
  | "UNBIND_FAILED"
  | "BIND_FAILED";

/** A function and the kernel driver that it goes back to; undefined: it is left without one. */
export type Return = { readonly address: string; readonly driver: string | undefined };

const VFIO_PCI = "vfio-pci";
const KERNEL_DRIVER = "nvme";

const PCI = "/sys/bus/pci";
/** A probe returns up to 180 ms before the block devices (docs/kernel.md#probing-nvme-again). */
const APPEAR_MS = 2_000;
const POLL_MS = 20;

/**
 * Binds functions to vfio-pci. Closes `heldDescriptors` as soon as the kernel driver of the last one is
 * unbound; if the claim fails before that, the caller has to close them. On a failure after the first
 * write all of them are given back to the drivers that they had.
 */
export async function claimFunctions(
  kernel: Kernel,
  addresses: readonly string[],
  { heldDescriptors }: { readonly heldDescriptors: readonly HeldDevice[] },
): Promise<ClaimResult> {
  const { functions } = await listNvme(kernel);
  const members = functions.filter(({ pciAddress }) => addresses.includes(pciAddress));
  const absent = addresses.filter((one) => !members.some(({ pciAddress }) => pciAddress === one));
  if (absent.length > 0) {
    return refused("NO_SUCH_FUNCTION", `no NVMe function ${absent.join(", ")}`);
  }
  const obstacle = (await claimObstacle(kernel, members)) ?? notHeld(members, heldDescriptors);
  if (obstacle !== undefined) return obstacle;
  try {
    await moveToVfio(kernel, members, heldDescriptors);
  } catch (error) {
    if (!(error instanceof StepFailure)) throw error;
    const back = members
      .filter(({ driver }) => driver !== VFIO_PCI)
      .map(({ pciAddress: address, driver }) => ({ address, driver }));
    await releaseFunctions(kernel, back);
    return refused(error.reason, error.message);
  }
  return { ok: true };
}

/**
 * Checks the preconditions of a claim without a write, for each of which SPDK would only answer -19;
 * undefined: none is missing.
 */
async function claimObstacle(
  kernel: Kernel,
  members: readonly Omit<NvmeFunction, "controllers">[],
): Promise<Extract<ClaimResult, { ok: false }> | undefined> {
  const moving = members.filter(({ driver }) => driver !== VFIO_PCI);
  for (const { pciAddress, driver, driverOverride, iommuGroup } of moving) {
    if (driver !== undefined && driver !== KERNEL_DRIVER) {
      return refused("OTHER_DRIVER", `${pciAddress} has driver ${driver}`);
    }
    if (driverOverride !== undefined && driverOverride !== VFIO_PCI) {
      const detail = `driver_override of ${pciAddress} is ${driverOverride}, and not the agent's`;
      return refused("DRIVER_OVERRIDE", detail);
    }
    if (iommuGroup === undefined) return refused("NO_IOMMU", `${pciAddress} has no IOMMU group`);
  }
  const blockers = groupBlockers(members.map((one) => ({ ...one, controllers: [] })));
  if (blockers.length > 0) {
    const named = blockers.map(({ address, driver }) => `${address} (driver ${driver})`);
    const detail = `the IOMMU group of ${members[0]?.pciAddress} also holds ${named.join(", ")}`;
    return refused("IOMMU_GROUP_SHARED", detail);
  }
  return await missingOnNode(kernel);
}

/** What forbids any claim on this node, for people; undefined: nothing. */
export async function nodeObstacle(kernel: Kernel): Promise<string | undefined> {
  const missing = await missingOnNode(kernel);
  return missing && `${missing.reason}: ${missing.detail}`;
}

async function missingOnNode(kernel: Kernel) {
  const [attributes, hugepages] = await Promise.all([
    kernel.list(`${PCI}/drivers/${VFIO_PCI}`),
    countHugepages(kernel),
  ]);
  if (attributes.length === 0) {
    return refused("VFIO_PCI_NOT_LOADED", "kernel module vfio-pci is not loaded");
  }
  if (hugepages === 0) return refused("NO_HUGEPAGES", "no huge pages are reserved for the target");
  return undefined;
}

/**
 * Gives functions that are bound to vfio-pci or to no driver back to their kernel drivers: unbinds all,
 * binds all, and waits at most 2 s until their block devices exist. A process that uses one of them
 * through vfio must have closed it before: the kernel unbinds it without asking.
 */
export async function releaseFunctions(
  kernel: Kernel,
  returns: readonly Return[],
  { unbindMs = UNBIND_MS }: { readonly unbindMs?: number } = {},
): Promise<ReleaseResult> {
  const found = await Promise.all(
    returns.map(async (one) => ({ ...one, is: await readFunction(kernel, one.address) })),
  );
  for (const { address, driver, is } of found) {
    const path = await kernel.realPath(`${PCI}/devices/${address}`);
    if (path === undefined) return refused("NO_SUCH_FUNCTION", `no PCI function ${address}`);
    if (is.driver !== undefined && is.driver !== VFIO_PCI && is.driver !== driver) {
      return refused("OTHER_DRIVER", `${address} has driver ${is.driver}`);
    }
  }
  const bound = found.filter(({ driver }) => driver !== undefined);
  try {
    for (const { address, is } of found) {
      if (is.driverOverride === undefined) continue;
      await kernel.write(`${PCI}/devices/${address}/driver_override`, "\n");
    }
    // All before the first bind: no kernel driver binds while a group is in use by vfio.
    for (const { address, is } of found) {
      if (is.driver === VFIO_PCI) await unbind(kernel, address, unbindMs);
    }
    for (const { address, driver } of bound) {
      if (driver !== undefined) await bind(kernel, address, driver);
    }
  } catch (error) {
    if (!(error instanceof StepFailure)) throw error;
    const reason = error.reason === "UNBIND_FAILED" ? "UNBIND_FAILED" : "BIND_FAILED";
    return refused(reason, error.message);
  }
  const appeared = await Promise.all(
    bound.map(async ({ address }) => await waitForBlockDevices(kernel, address)),
  );
  return { ok: true, appeared: appeared.flat() };
}

/**
 * Unbinds functions from the kernel's nvme driver and binds them again: it reads the partition tables of
 * their disks anew. Closes `heldDescriptors` once all are unbound; if they are NOT_HELD, the caller has to.
 */
export async function probeAgain(
  kernel: Kernel,
  addresses: readonly string[],
  { heldDescriptors }: { readonly heldDescriptors: readonly HeldDevice[] },
): Promise<ReleaseResult> {
  const { functions } = await listNvme(kernel);
  const members = functions.filter(({ pciAddress }) => addresses.includes(pciAddress));
  const obstacle = notHeld(members, heldDescriptors);
  if (obstacle !== undefined) return obstacle;
  const returns = addresses.map((address) => ({ address, driver: KERNEL_DRIVER }));
  let failure: StepFailure | undefined;
  try {
    for (const address of addresses) await unbind(kernel, address, UNBIND_MS);
  } catch (error) {
    if (!(error instanceof StepFailure)) throw error;
    failure = error;
  }
  // Before the first bind, as in a claim.
  await Promise.all(heldDescriptors.map(async (held) => await held[Symbol.asyncDispose]()));
  const released = await releaseFunctions(kernel, returns);
  return failure === undefined ? released : refused("UNBIND_FAILED", failure.message);
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
  members: readonly NvmeFunction[],
  heldDescriptors: readonly HeldDevice[],
): Promise<void> {
  const moving = members.filter(({ driver }) => driver !== VFIO_PCI);
  // Set the override before the unbind: without it any probe binds a driverless function to nvme
  // again.
  for (const { pciAddress } of moving) {
    await attempt("BIND_FAILED", `cannot set driver_override of ${pciAddress}`, async () => {
      await kernel.write(`${PCI}/devices/${pciAddress}/driver_override`, VFIO_PCI);
    });
  }
  for (const { pciAddress, driver } of moving) {
    if (driver !== undefined) await unbind(kernel, pciAddress, UNBIND_MS);
  }
  // Close them now: an open descriptor makes the kernel give the disk another name on its return.
  await Promise.all(heldDescriptors.map(async (held) => await held[Symbol.asyncDispose]()));
  for (const { pciAddress } of moving) await bind(kernel, pciAddress, VFIO_PCI);
  const nodes = await kernel.list("/dev/vfio");
  for (const { iommuGroup } of members) {
    if (iommuGroup !== undefined && nodes.includes(iommuGroup)) continue;
    const what = `/dev/vfio/${iommuGroup} did not appear`;
    throw new StepFailure("NO_GROUP_NODE", `${what}; check that /dev is the host's`);
  }
}

/** Unbinds that have not returned: a second write would only block as well. */
const blocked = new WeakMap<Kernel, Set<string>>();

/**
 * The kernel does not return from the unbind of a vfio device before its user has let go, without limit:
 * it is waited for `unbindMs`.
 */
async function unbind(kernel: Kernel, pciAddress: string, unbindMs: number): Promise<void> {
  const waiting = blocked.get(kernel) ?? new Set<string>();
  blocked.set(kernel, waiting);
  const still = `the unbind of ${pciAddress} does not return: a process has the device open`;
  if (waiting.has(pciAddress)) throw new StepFailure("UNBIND_FAILED", still);
  waiting.add(pciAddress);
  const written = kernel
    .write(`${PCI}/devices/${pciAddress}/driver/unbind`, pciAddress)
    .finally(() => waiting.delete(pciAddress));
  const { promise: deadline, resolve } = Promise.withResolvers<"late">();
  const timer = setTimeout(() => resolve("late"), unbindMs);
  try {
    const answer = await Promise.race([written, deadline]);
    if (answer !== "late") return;
    written.catch(() => {});
    throw new StepFailure("UNBIND_FAILED", still);
  } catch (error) {
    if (error instanceof StepFailure) throw error;
    // Another process may have unbound it first: no driver is what was wanted.
    if ((await readDriver(kernel, pciAddress)) === undefined) return;
    const what = `cannot unbind ${pciAddress}: ${errnoOf(error) ?? "error"}`;
    throw new StepFailure("UNBIND_FAILED", what, { cause: error });
  } finally {
    clearTimeout(timer);
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

function notHeld(members: readonly NvmeFunction[], held: readonly HeldDevice[]) {
  const missing = namespacesIn(members).filter(
    (ns) => !held.some(({ device, dev }) => device === ns.device && dev === ns.dev),
  );
  if (missing.length === 0) return undefined;
  const names = missing.map(({ kernelName }) => kernelName).join(", ");
  return refused("NOT_HELD", `not held exclusively: ${names}`);
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

function refused<Reason extends string>(reason: Reason, detail: string) {
  return { ok: false, reason, detail } as const;
}
