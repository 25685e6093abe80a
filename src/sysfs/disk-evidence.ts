// Everything that speaks against taking a PCI function from the kernel. Taking it takes the whole
// controller, so every namespace on it is looked at, and every function of its IOMMU group. It never
// writes, and what could not be looked at is UNREADABLE, never blank.
import { sortedEvidence, type Evidence } from "../model/evidence.ts";
import { inspectBytes } from "./disk-bytes.ts";
import { inspectUsage, namespaceSubject, readUsage, type Usage } from "./disk-usage.ts";
import { errnoOf } from "./errno.ts";
import type { HeldDevice, Kernel } from "./kernel.ts";
import type { NvmeController, NvmeFunction, NvmeNamespace, NvmeTopology } from "./nvme.ts";
import { HEAD_BYTES, TAIL_BYTES } from "./signatures.ts";

export type Inspection = AsyncDisposable & {
  readonly evidence: readonly Evidence[];
  /** The function's own namespaces, held until disposed: what was seen cannot change hands. */
  readonly held: readonly HeldDevice[];
};

export type InspectOptions = {
  /** The allow list; absent: everything is allowed. */
  readonly allowed?: (disk: {
    readonly serial: string;
    readonly model: string;
    readonly address: string;
  }) => boolean;
};

/** Drivers that leave a group usable for vfio: they never touch the device's memory mappings. */
const GROUP_NEUTRAL: ReadonlySet<string | undefined> = new Set([
  undefined,
  "vfio-pci",
  "pci-stub",
  "pcieport",
]);

/**
 * Looks at a function and keeps its namespaces open exclusively until the inspection is disposed.
 * A function that the topology does not have is UNREADABLE.
 */
export async function inspectFunction(
  kernel: Kernel,
  topology: NvmeTopology,
  pciAddress: string,
  options: InspectOptions = {},
): Promise<Inspection> {
  const own = topology.functions.find((one) => one.pciAddress === pciAddress);
  if (own === undefined) {
    return inspection([unreadable(pciAddress, "no such NVMe function")], []);
  }
  const group = new Set(own.groupFunctions.map(({ address }) => address));
  const neighbours = topology.functions.filter(
    (one) => one !== own && group.has(one.pciAddress) && one.controllers.length > 0,
  );
  const usage = await readUsage(kernel);
  const mine = namespacesOf(own);
  const theirs = neighbours.flatMap(namespacesOf);
  const used = await Promise.all(
    [...mine, ...theirs].map(async (ns) => await inspectUse(kernel, usage, ns, topology)),
  );
  // Only now, as from here on nothing can fail and leave a device open.
  const [looked, borrowed] = await Promise.all(
    [mine, theirs].map(
      async (list) => await Promise.all(list.map(async (ns) => await inspectContent(kernel, ns))),
    ),
  );
  const content = [...(looked ?? []), ...(borrowed ?? [])];
  await letGo((borrowed ?? []).flatMap(({ held }) => held));
  return inspection(
    [
      ...functionEvidence(own),
      ...(usage.known ? [] : [unreadable(pciAddress, "mounts cannot be read")]),
      ...used.flat(),
      ...content.flatMap(({ evidence }) => evidence),
      ...policyEvidence(own, options),
    ],
    (looked ?? []).flatMap(({ held }) => held),
  );
}

/** As inspectFunction, without keeping anything open. */
export async function gatherEvidence(
  kernel: Kernel,
  topology: NvmeTopology,
  pciAddress: string,
  options: InspectOptions = {},
): Promise<readonly Evidence[]> {
  await using observed = await inspectFunction(kernel, topology, pciAddress, options);
  return observed.evidence;
}

/** Functions of the group whose driver keeps it from being used through vfio. */
export function groupBlockers(
  own: Pick<NvmeFunction, "pciAddress" | "groupFunctions">,
): readonly { readonly address: string; readonly driver: string | undefined }[] {
  return own.groupFunctions.filter(
    ({ address, driver }) => address !== own.pciAddress && !GROUP_NEUTRAL.has(driver),
  );
}

export function namespacesOf({ controllers }: NvmeFunction): readonly NvmeNamespace[] {
  return controllers.flatMap(({ namespaces }) => namespaces);
}

function functionEvidence(own: NvmeFunction): readonly Evidence[] {
  const { pciAddress: subject, driver, controllers, iommuGroup } = own;
  const evidence: Evidence[] = groupBlockers(own).map(({ address, driver }) => ({
    kind: "IOMMU_GROUP_SHARED",
    subject: address,
    detail: `driver ${driver} in the IOMMU group of ${subject}`,
  }));
  if (iommuGroup === undefined) {
    evidence.push({ kind: "NO_IOMMU", subject, detail: "function has no IOMMU group" });
  }
  if (driver !== "nvme") {
    evidence.push(unreadable(subject, driver === undefined ? "no driver" : `driver ${driver}`));
  } else if (namespacesOf(own).length === 0) {
    evidence.push(unreadable(subject, "no namespace is visible"));
  }
  return [...evidence, ...controllers.flatMap(controllerEvidence)];
}

function controllerEvidence({ serial, state }: NvmeController): readonly Evidence[] {
  return state === "live" ? [] : [unreadable(serial, `controller is ${state || "in no state"}`)];
}

function policyEvidence(own: NvmeFunction, { allowed }: InspectOptions): readonly Evidence[] {
  const address = own.pciAddress;
  return own.controllers
    .filter(({ serial, model }) => allowed?.({ serial, model, address }) === false)
    .map(({ serial }) => ({
      kind: "NOT_ALLOWED",
      subject: serial,
      detail: "not on the allow list",
    }));
}

type Looked = { readonly evidence: readonly Evidence[]; readonly held: readonly HeldDevice[] };

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
      detail: `also reached through ${paths(ns, topology)}`,
    });
  }
  return evidence;
}

/** Both would write: the kernel through the path that stays, SPDK through the one it was given. */
function paths(ns: NvmeNamespace, topology: NvmeTopology): string {
  const addresses = topology.functions
    .flatMap(({ controllers }) => controllers)
    .filter(({ name }) => ns.controllers.includes(name))
    .map(({ address }) => address)
    .filter((address) => address !== ns.address);
  return addresses.length === 0 ? "another controller" : addresses.toSorted().join(", ");
}

/** Never throws: what it opened must reach somebody who closes it. */
async function inspectContent(kernel: Kernel, ns: NvmeNamespace): Promise<Looked> {
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
  const least = (length: number) => (sizeBytes < BigInt(length) ? Number(sizeBytes) : length);
  const tailBytes = least(TAIL_BYTES);
  const [head, tail] = await Promise.all([
    read(0n, least(HEAD_BYTES)),
    read(sizeBytes - BigInt(tailBytes), tailBytes),
  ]);
  const whole = head.length === least(HEAD_BYTES) && tail.length === tailBytes;
  return whole ? { sizeBytes, head, tail } : undefined;
}

function unreadable(subject: string, detail: string): Evidence {
  return { kind: "UNREADABLE", subject, detail };
}

function inspection(evidence: readonly Evidence[], held: readonly HeldDevice[]): Inspection {
  return {
    evidence: sortedEvidence(evidence),
    held,
    [Symbol.asyncDispose]: async () => await letGo(held),
  };
}

async function letGo(held: readonly HeldDevice[]): Promise<void> {
  await Promise.all(held.map(async (device) => await device[Symbol.asyncDispose]()));
}
