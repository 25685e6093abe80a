// Gathers the evidence against claiming a PCI function from the kernel. A claim takes the whole
// controller, so it inspects every namespace of it and every function of its IOMMU group. It never
// writes, and never reports what it could not read as blank: that is evidence UNREADABLE.
import { sortedEvidence, type Evidence } from "../model/evidence.ts";
import { inspectBytes } from "./disk-bytes.ts";
import { inspectUsage, namespaceSubject, readUsage, type Usage } from "./disk-usage.ts";
import { errnoOf } from "./errno.ts";
import type { HeldDevice, Kernel } from "./kernel.ts";
import type { NvmeController, NvmeFunction, NvmeNamespace, NvmeTopology } from "./nvme.ts";
import { HEAD_BYTES, TAIL_BYTES } from "./signatures.ts";

export type Inspection = AsyncDisposable & {
  readonly evidence: readonly Evidence[];
  /**
   * The namespaces of the function, opened exclusively until the inspection is disposed: no other
   * user can claim them in between. Namespaces of other functions of the group are not held.
   */
  readonly held: readonly HeldDevice[];
};

export type InspectOptions = {
  /** Whether the allow list has the disk; absent: every disk is allowed. */
  readonly allowed?: (disk: {
    readonly serial: string;
    readonly model: string;
    readonly address: string;
  }) => boolean;
};

/**
 * Drivers that do not prevent use of the group through vfio: they do not manage its DMA mappings.
 */
const GROUP_NEUTRAL: ReadonlySet<string | undefined> = new Set([
  undefined,
  "vfio-pci",
  "pci-stub",
  "pcieport",
]);

/**
 * Inspects a function and keeps its namespaces open exclusively until the inspection is disposed.
 * A function that is not in the topology gives evidence UNREADABLE.
 */
export async function inspectFunction(
  kernel: Kernel,
  topology: NvmeTopology,
  pciAddress: string,
  options: InspectOptions = {},
): Promise<Inspection> {
  const pciFunction = topology.functions.find((each) => each.pciAddress === pciAddress);
  if (pciFunction === undefined) {
    return inspection([unreadable(pciAddress, "no such NVMe function")], []);
  }
  const group = new Set(pciFunction.groupFunctions.map(({ address }) => address));
  const neighbours = topology.functions.filter(
    (each) => each !== pciFunction && group.has(each.pciAddress) && each.controllers.length > 0,
  );
  const usage = await readUsage(kernel);
  const ownNamespaces = namespacesOf(pciFunction);
  const otherNamespaces = neighbours.flatMap(namespacesOf);
  const used = await Promise.all(
    [...ownNamespaces, ...otherNamespaces].map(
      async (ns) => await inspectUse(kernel, usage, ns, topology),
    ),
  );
  // Open devices only after the last call that may throw, or one would stay open.
  const [ownContents, otherContents] = await Promise.all(
    [ownNamespaces, otherNamespaces].map(
      async (list) => await Promise.all(list.map(async (ns) => await inspectContent(kernel, ns))),
    ),
  );
  const contents = [...(ownContents ?? []), ...(otherContents ?? [])];
  await closeAll((otherContents ?? []).flatMap(({ held }) => held));
  return inspection(
    [
      ...functionEvidence(pciFunction),
      ...(usage.known ? [] : [unreadable(pciAddress, "mounts cannot be read")]),
      ...used.flat(),
      ...contents.flatMap(({ evidence }) => evidence),
      ...policyEvidence(pciFunction, options),
    ],
    (ownContents ?? []).flatMap(({ held }) => held),
  );
}

/** As inspectFunction, without keeping any namespace open. */
export async function gatherEvidence(
  kernel: Kernel,
  topology: NvmeTopology,
  pciAddress: string,
  options: InspectOptions = {},
): Promise<readonly Evidence[]> {
  await using inspected = await inspectFunction(kernel, topology, pciAddress, options);
  return inspected.evidence;
}

/** Other functions of the IOMMU group whose driver prevents use of the group through vfio. */
export function groupBlockers(
  pciFunction: Pick<NvmeFunction, "pciAddress" | "groupFunctions">,
): readonly { readonly address: string; readonly driver: string | undefined }[] {
  return pciFunction.groupFunctions.filter(
    ({ address, driver }) => address !== pciFunction.pciAddress && !GROUP_NEUTRAL.has(driver),
  );
}

export function namespacesOf({ controllers }: NvmeFunction): readonly NvmeNamespace[] {
  return controllers.flatMap(({ namespaces }) => namespaces);
}

function functionEvidence(pciFunction: NvmeFunction): readonly Evidence[] {
  const { pciAddress: subject, driver, controllers, iommuGroup } = pciFunction;
  const evidence: Evidence[] = groupBlockers(pciFunction).map(({ address, driver }) => ({
    kind: "IOMMU_GROUP_SHARED",
    subject: address,
    detail: `driver ${driver} in the IOMMU group of ${subject}`,
  }));
  if (iommuGroup === undefined) {
    evidence.push({ kind: "NO_IOMMU", subject, detail: "function has no IOMMU group" });
  }
  if (driver !== "nvme") {
    evidence.push(unreadable(subject, driver === undefined ? "no driver" : `driver ${driver}`));
  } else if (namespacesOf(pciFunction).length === 0) {
    evidence.push(unreadable(subject, "no namespace is visible"));
  }
  return [...evidence, ...controllers.flatMap(controllerEvidence)];
}

function controllerEvidence({ serial, state }: NvmeController): readonly Evidence[] {
  return state === "live" ? [] : [unreadable(serial, `controller is ${state || "in no state"}`)];
}

function policyEvidence(
  pciFunction: NvmeFunction,
  { allowed }: InspectOptions,
): readonly Evidence[] {
  const address = pciFunction.pciAddress;
  return pciFunction.controllers
    .filter(({ serial, model }) => allowed?.({ serial, model, address }) === false)
    .map(({ serial }) => ({
      kind: "NOT_ALLOWED",
      subject: serial,
      detail: "not on the allow list",
    }));
}

type Content = { readonly evidence: readonly Evidence[]; readonly held: readonly HeldDevice[] };

async function inspectUse(
  kernel: Kernel,
  usage: Usage,
  ns: NvmeNamespace,
  topology: NvmeTopology,
): Promise<readonly Evidence[]> {
  const subject = namespaceSubject(ns);
  const evidence: Evidence[] = [...(await inspectUsage(kernel, usage, ns))];
  if (ns.partitions.length > 0) {
    const numbers = ns.partitions.map(({ number }) => number).toSorted((a, b) => a - b);
    const detail = `the kernel shows partition ${numbers.join(", ")}`;
    evidence.push({ kind: "PARTITION_TABLE", subject, detail });
  }
  if (ns.controllers.length > 1) {
    evidence.push({
      kind: "HOLDER",
      subject,
      detail: `also reached through ${otherPaths(ns, topology)}`,
    });
  }
  return evidence;
}

/**
 * The other controllers of a namespace. They count as holders: after a claim the kernel could write
 * through them while SPDK writes through the claimed one.
 */
function otherPaths(ns: NvmeNamespace, topology: NvmeTopology): string {
  const addresses = topology.functions
    .flatMap(({ controllers }) => controllers)
    .filter(({ name }) => ns.controllers.includes(name))
    .map(({ address }) => address)
    .filter((address) => address !== ns.address);
  return addresses.length === 0 ? "another controller" : addresses.toSorted().join(", ");
}

/** Never throws, because the caller has to close the device that it opened. */
async function inspectContent(kernel: Kernel, ns: NvmeNamespace): Promise<Content> {
  const subject = namespaceSubject(ns);
  if (ns.sizeBytes === 0n || ns.blockSizeBytes === 0 || ns.nsid === 0) {
    const detail = "the kernel shows no size, block size or namespace id";
    return { evidence: [unreadable(subject, detail)], held: [] };
  }
  let device: HeldDevice | undefined;
  try {
    device = await kernel.openExclusive(ns.device);
  } catch (error) {
    const detail = `cannot be opened: ${errnoOf(error) ?? String(error)}`;
    return { evidence: [unreadable(subject, detail)], held: [] };
  }
  if (device === undefined) {
    const refused = { kind: "EXCLUSIVE_OPEN_REFUSED", subject, detail: "in use" } as const;
    const read = async (at: bigint, length: number) =>
      await kernel.readBlocks(ns.device, at, length);
    return { evidence: [refused, ...(await contentEvidence(ns, read))], held: [] };
  }
  if (device.dev !== ns.dev) {
    const detail = "the kernel name moved to another disk meanwhile";
    return { evidence: [unreadable(subject, detail)], held: [device] };
  }
  return { evidence: await contentEvidence(ns, device.read), held: [device] };
}

async function contentEvidence(
  ns: NvmeNamespace,
  read: HeldDevice["read"],
): Promise<readonly Evidence[]> {
  const subject = namespaceSubject(ns);
  try {
    const content = await readEnds(read, ns.sizeBytes);
    if (content === undefined) return [unreadable(subject, "it ends before its size")];
    return inspectBytes(subject, content);
  } catch (error) {
    return [unreadable(subject, `cannot be read: ${errnoOf(error) ?? String(error)}`)];
  }
}

async function readEnds(read: HeldDevice["read"], sizeBytes: bigint) {
  const atMost = (length: number) => (sizeBytes < BigInt(length) ? Number(sizeBytes) : length);
  const tailBytes = atMost(TAIL_BYTES);
  const [head, tail] = await Promise.all([
    read(0n, atMost(HEAD_BYTES)),
    read(sizeBytes - BigInt(tailBytes), tailBytes),
  ]);
  const whole = head.length === atMost(HEAD_BYTES) && tail.length === tailBytes;
  return whole ? { sizeBytes, head, tail } : undefined;
}

function unreadable(subject: string, detail: string): Evidence {
  return { kind: "UNREADABLE", subject, detail };
}

function inspection(evidence: readonly Evidence[], held: readonly HeldDevice[]): Inspection {
  return {
    evidence: sortedEvidence(evidence),
    held,
    [Symbol.asyncDispose]: async () => await closeAll(held),
  };
}

async function closeAll(held: readonly HeldDevice[]): Promise<void> {
  await Promise.all(held.map(async (device) => await device[Symbol.asyncDispose]()));
}
