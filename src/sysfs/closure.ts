// What is taken from the kernel together (docs/architecture.md#closures): a controller, the
// controllers that share one of its namespaces, and all NVMe functions of their IOMMU groups, until
// nothing is added. Pure.
import type { GroupFunction, NvmeFunction, NvmeNamespace, NvmeTopology } from "./nvme.ts";

/**
 * Drivers that do not prevent use of the group through vfio: they do not manage its DMA mappings.
 */
const GROUP_NEUTRAL: ReadonlySet<string | undefined> = new Set([
  undefined,
  "vfio-pci",
  "pci-stub",
  "pcieport",
]);

const KERNEL_DRIVER = "nvme";

/** The members by address, lowest first, the named function included; empty if it is not listed. */
export function closureOf(topology: NvmeTopology, pciAddress: string): readonly NvmeFunction[] {
  const members = new Map<string, NvmeFunction>();
  const add = (address: string) => {
    const found = topology.functions.find((each) => each.pciAddress === address);
    if (found === undefined || members.has(address)) return;
    members.set(address, found);
    for (const { address: member } of found.groupFunctions) add(member);
    for (const port of portsOf(topology, namespacesOf(found))) add(port);
  };
  add(pciAddress);
  return [...members.values()].toSorted((a, b) => (a.pciAddress < b.pciAddress ? -1 : 1));
}

/** Addresses of the PCIe controllers that reach one of these namespaces. */
function portsOf(topology: NvmeTopology, namespaces: readonly NvmeNamespace[]): readonly string[] {
  const names = new Set(namespaces.flatMap(({ controllers }) => controllers));
  return topology.functions
    .filter(({ controllers }) => controllers.some(({ name }) => names.has(name)))
    .map(({ pciAddress }) => pciAddress);
}

/** Every namespace of these functions, one that several of them reach once. */
export function namespacesIn(functions: readonly NvmeFunction[]): readonly NvmeNamespace[] {
  const all = functions.flatMap(namespacesOf);
  return [...new Map(all.map((namespace) => [namespace.kernelName, namespace])).values()];
}

export function namespacesOf({ controllers }: NvmeFunction): readonly NvmeNamespace[] {
  return controllers.flatMap(({ namespaces }) => namespaces);
}

/**
 * Functions of the members' IOMMU groups whose driver prevents use of the group through vfio, and that are
 * not taken with the members.
 */
export function groupBlockers(members: readonly NvmeFunction[]): readonly GroupFunction[] {
  const taken = new Set(
    members.filter(({ driver }) => driver === KERNEL_DRIVER).map(({ pciAddress }) => pciAddress),
  );
  const all = members.flatMap(({ groupFunctions }) => groupFunctions);
  const blocking = all.filter(
    ({ address, driver }) => !taken.has(address) && !GROUP_NEUTRAL.has(driver),
  );
  return [...new Map(blocking.map((one) => [one.address, one])).values()];
}
