// Gathers the evidence against taking a PCI function from the kernel. What is taken is its closure
// (closure.ts), so every namespace and every function of that is inspected. It never writes, and never
// reports what it could not read as blank: that is evidence UNREADABLE.
import { sortedEvidence, type Evidence } from "../model/evidence.ts";
import { closureOf, groupBlockers, namespacesIn, namespacesOf } from "./closure.ts";
import { inspectBytes } from "./disk-bytes.ts";
import { inspectUsage, namespaceSubject, readUsage, type Usage } from "./disk-usage.ts";
import { errnoOf } from "./errno.ts";
import type { HeldDevice, Kernel, WritableDevice } from "./kernel.ts";
import type { NvmeController, NvmeFunction, NvmeNamespace, NvmeTopology } from "./nvme.ts";
import { HEAD_BYTES, TAIL_BYTES } from "./signatures.ts";

export type Inspection = AsyncDisposable & {
  readonly evidence: readonly Evidence[];
  /**
   * The namespaces of the closure, opened exclusively until the inspection is disposed: no other
   * user can claim them in between.
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
 * A look at the closure of a function: opens nothing exclusively, so it disturbs nobody. A function that
 * is not in the topology gives evidence UNREADABLE.
 */
export async function gatherEvidence(
  kernel: Kernel,
  topology: NvmeTopology,
  pciAddress: string,
  options: InspectOptions = {},
): Promise<readonly Evidence[]> {
  const look = async (namespace: NvmeNamespace) => await lookAtContent(kernel, namespace);
  const { evidence } = await inspect({ kernel, topology, pciAddress, options }, look);
  return evidence;
}

/**
 * For a claim: as gatherEvidence, with every namespace of the closure opened exclusively until the
 * inspection is disposed. One that cannot be opened so gives evidence EXCLUSIVE_OPEN_REFUSED.
 */
export async function inspectForClaim(
  kernel: Kernel,
  topology: NvmeTopology,
  pciAddress: string,
): Promise<Inspection> {
  const hold = async (namespace: NvmeNamespace) => await holdAndInspect(kernel, namespace);
  const { evidence, held } = await inspect({ kernel, topology, pciAddress, options: {} }, hold);
  return { evidence, held, [Symbol.asyncDispose]: async () => await closeAll(held) };
}

/**
 * For a new probe of some functions of a closure: as inspectForClaim, with the namespaces of these functions only
 * opened exclusively.
 */
export async function inspectForProbe(
  kernel: Kernel,
  topology: NvmeTopology,
  addresses: readonly string[],
): Promise<Inspection> {
  const [pciAddress = ""] = addresses;
  const probed = topology.functions.filter((one) => addresses.includes(one.pciAddress));
  const names = new Set(namespacesIn(probed).map(({ kernelName }) => kernelName));
  const look = async (namespace: NvmeNamespace) =>
    names.has(namespace.kernelName)
      ? await holdAndInspect(kernel, namespace)
      : await lookAtContent(kernel, namespace);
  const { evidence, held } = await inspect({ kernel, topology, pciAddress, options: {} }, look);
  return { evidence, held, [Symbol.asyncDispose]: async () => await closeAll(held) };
}

/** A closure with one of its namespaces opened exclusively for writing until it is disposed. */
export type WipeInspection = AsyncDisposable & {
  readonly evidence: readonly Evidence[];
  /** Undefined: it could not be opened, and the evidence says why. */
  readonly device: WritableDevice | undefined;
};

/** For a wipe of one namespace: as gatherEvidence, with that one read through the opened descriptor. */
export async function inspectForWipe(
  kernel: Kernel,
  topology: NvmeTopology,
  pciAddress: string,
  kernelName: string,
): Promise<WipeInspection> {
  let device: WritableDevice | undefined;
  const openToWrite = async (path: string) => (device = await kernel.openToWrite(path));
  const look = async (namespace: NvmeNamespace) =>
    namespace.kernelName === kernelName
      ? await holdAndInspect(kernel, namespace, openToWrite)
      : await lookAtContent(kernel, namespace);
  const { evidence, held } = await inspect({ kernel, topology, pciAddress, options: {} }, look);
  return { evidence, device, [Symbol.asyncDispose]: async () => await closeAll(held) };
}

type Content = { readonly evidence: readonly Evidence[]; readonly held: readonly HeldDevice[] };

async function inspect(
  {
    kernel,
    topology,
    pciAddress,
    options,
  }: {
    readonly kernel: Kernel;
    readonly topology: NvmeTopology;
    readonly pciAddress: string;
    readonly options: InspectOptions;
  },
  /** Never throws: the others of the closure may have been opened already. */
  inspectContent: (namespace: NvmeNamespace) => Promise<Content>,
): Promise<Content> {
  const members = closureOf(topology, pciAddress);
  if (members.length === 0) {
    return { evidence: [unreadable(pciAddress, "no such NVMe function")], held: [] };
  }
  const usage = await readUsage(kernel);
  const namespaces = namespacesIn(members);
  const used = await Promise.all(
    namespaces.map(async (ns) => await inspectUse({ kernel, usage, topology, members }, ns)),
  );
  // Open devices only after the last call that may throw, or one would stay open.
  const contents = await Promise.all(namespaces.map(inspectContent));
  const evidence = [
    ...members.flatMap(functionEvidence),
    ...groupEvidence(members),
    ...(usage.known ? [] : [unreadable(pciAddress, "mounts cannot be read")]),
    ...used.flat(),
    ...contents.flatMap((content) => content.evidence),
    ...policyEvidence(members, pciAddress, options),
  ];
  return { evidence: sortedEvidence(evidence), held: contents.flatMap(({ held }) => held) };
}

function groupEvidence(members: readonly NvmeFunction[]): readonly Evidence[] {
  const [first] = members;
  return groupBlockers(members).map(({ address, driver }) => ({
    kind: "IOMMU_GROUP_SHARED",
    subject: address,
    detail: `driver ${driver} in the IOMMU group of ${first?.pciAddress}`,
  }));
}

function functionEvidence(pciFunction: NvmeFunction): readonly Evidence[] {
  const { pciAddress: subject, driver, driverOverride, controllers, iommuGroup } = pciFunction;
  const evidence: Evidence[] = [];
  if (iommuGroup === undefined) {
    evidence.push({ kind: "NO_IOMMU", subject, detail: "function has no IOMMU group" });
  }
  // On vfio-pci it is the agent's own, or that of whoever has bound it.
  if (driverOverride !== undefined && driver !== "vfio-pci") {
    const detail = `somebody has set driver_override to ${driverOverride}`;
    evidence.push({ kind: "DRIVER_OVERRIDE", subject, detail });
  }
  if (driver !== "nvme") {
    evidence.push(notReady(subject, driver === undefined ? "no driver" : `driver ${driver}`));
  } else if (namespacesOf(pciFunction).length === 0) {
    evidence.push(notReady(subject, "no namespace is visible"));
  }
  return [...evidence, ...controllers.flatMap(controllerEvidence)];
}

function controllerEvidence({ serial, state }: NvmeController): readonly Evidence[] {
  return state === "live" ? [] : [notReady(serial, `controller is ${state || "in no state"}`)];
}

/** Of the named function only: the others of the closure have disks of their own. */
function policyEvidence(
  members: readonly NvmeFunction[],
  address: string,
  { allowed }: InspectOptions,
): readonly Evidence[] {
  return members
    .filter(({ pciAddress }) => pciAddress === address)
    .flatMap(({ controllers }) => controllers)
    .filter(({ serial, model }) => allowed?.({ serial, model, address }) === false)
    .map(({ serial }) => ({
      kind: "NOT_ALLOWED",
      subject: serial,
      detail: "not on the allow list",
    }));
}

type Around = {
  readonly kernel: Kernel;
  readonly usage: Usage;
  readonly topology: NvmeTopology;
  readonly members: readonly NvmeFunction[];
};

async function inspectUse(
  { kernel, usage, topology, members }: Around,
  ns: NvmeNamespace,
): Promise<readonly Evidence[]> {
  const subject = namespaceSubject(ns);
  const evidence: Evidence[] = [...(await inspectUsage(kernel, usage, ns))];
  if (ns.partitions.length > 0) {
    const numbers = ns.partitions.map(({ number }) => number).toSorted((a, b) => a - b);
    const detail = `the kernel shows partition ${numbers.join(", ")}`;
    evidence.push({ kind: "PARTITION_TABLE", subject, detail });
  }
  const through = otherPaths(ns, topology, members);
  if (through !== undefined) {
    evidence.push({ kind: "HOLDER", subject, detail: `also reached through ${through}` });
  }
  return evidence;
}

/**
 * Controllers of a namespace that are not taken with it. They count as holders: after a claim the kernel
 * could write through them while SPDK writes through the claimed one.
 */
function otherPaths(
  ns: NvmeNamespace,
  topology: NvmeTopology,
  members: readonly NvmeFunction[],
): string | undefined {
  const taken = new Set(members.flatMap(({ controllers }) => controllers.map(({ name }) => name)));
  const others = ns.controllers.filter((name) => !taken.has(name));
  if (others.length === 0) return undefined;
  const addresses = [
    ...topology.functions.flatMap(({ controllers }) => controllers),
    ...topology.fabrics,
  ]
    .filter(({ name }) => others.includes(name))
    .map(({ address }) => address);
  return addresses.length === 0 ? "another controller" : addresses.toSorted().join(", ");
}

/** Reads the namespace without keeping anybody else from opening it. */
async function lookAtContent(kernel: Kernel, ns: NvmeNamespace): Promise<Content> {
  const subject = namespaceSubject(ns);
  const missing = missingFacts(ns);
  if (missing !== undefined) return { evidence: [missing], held: [] };
  const read = async (at: bigint, length: number) => await kernel.readBlocks(ns.device, at, length);
  const evidence = await contentEvidence(ns, read);
  const dev = await kernel.read(`/sys/class/block/${ns.kernelName}/dev`).catch(() => undefined);
  return { evidence: dev === ns.dev ? evidence : [unreadable(subject, MOVED)], held: [] };
}

const MOVED = "the kernel name moved to another disk meanwhile";

function missingFacts(ns: NvmeNamespace): Evidence | undefined {
  if (ns.sizeBytes > 0n && ns.blockSizeBytes > 0 && ns.nsid > 0) return undefined;
  const detail = "the kernel shows no size, block size or namespace id";
  return unreadable(namespaceSubject(ns), detail);
}

/** Never throws, because the caller has to close the device that it opened. */
async function holdAndInspect(
  kernel: Kernel,
  ns: NvmeNamespace,
  open: Kernel["openExclusive"] = kernel.openExclusive,
): Promise<Content> {
  const subject = namespaceSubject(ns);
  const missing = missingFacts(ns);
  if (missing !== undefined) return { evidence: [missing], held: [] };
  let device: HeldDevice | undefined;
  try {
    device = await open(ns.device);
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
    return { evidence: [unreadable(subject, MOVED)], held: [device] };
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

function notReady(subject: string, detail: string): Evidence {
  return { kind: "NOT_READY", subject, detail };
}

async function closeAll(held: readonly HeldDevice[]): Promise<void> {
  await Promise.all(held.map(async (device) => await device[Symbol.asyncDispose]()));
}
