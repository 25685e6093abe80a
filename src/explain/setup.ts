// What a machine lacks for its target, each with the command that cures it: the checks of
// `storage-node doctor`, and causes for which Explain finds a drive not attached. Pure.
import { formatBytes } from "../model/bytes.ts";
import type { Cause } from "./explanation.ts";
import type { HostSetup, Hugepages, ProcessLimits } from "../model/host-setup.ts";

/** ADVICE: it works, but less well. */
export type Verdict = "OK" | "MISSING" | "ADVICE" | "UNKNOWN";

export type SetupCheck = {
  readonly name: string;
  readonly verdict: Verdict;
  /** What was found, with names and numbers. */
  readonly found: string;
  /** A command, or what else is to be done; empty if nothing is. */
  readonly cure: string;
};

export type TargetSetup = {
  readonly running: boolean;
  /** CPUs of its reactors; undefined: not known. */
  readonly cpus: readonly number[] | undefined;
  /** Of the target, or of one that would be started here; undefined: not known. */
  readonly limits: ProcessLimits | undefined;
  readonly limitsOf: "the target" | "this shell";
};

export type SetupFacts = {
  readonly host: HostSetup;
  readonly target: TargetSetup;
  /** What a target needs of hugepages. */
  readonly hugepagesBytes: bigint;
  /** Sockets that the target needs when every export has a host. */
  readonly openFiles: bigint;
};

type Found = Omit<SetupCheck, "name">;

const ok = (found: string): Found => ({ verdict: "OK", found, cure: "" });
const missing = (found: string, cure: string): Found => ({ verdict: "MISSING", found, cure });
const advice = (found: string, cure: string): Found => ({ verdict: "ADVICE", found, cure });
const unknown = (found: string): Found => ({ verdict: "UNKNOWN", found, cure: "" });

const CHECKS: Readonly<Record<string, (facts: SetupFacts) => Found>> = {
  hugepages,
  IOMMU: iommu,
  "vfio-pci": vfioPci,
  "/dev/vfio": vfioNode,
  memlock,
  nofile,
  NUMA: numa,
};

/** All that is checked of the machine, in the order in which one depends on the other. */
export function setupChecks(facts: SetupFacts): readonly SetupCheck[] {
  return Object.entries(CHECKS).map(([name, check]) => ({ name, ...check(facts) }));
}

/** The machine lacks something that no drive can be attached without. */
export function setupCause(checks: readonly SetupCheck[] = []): Cause | undefined {
  const first = checks.find(({ verdict }) => verdict === "MISSING");
  if (first === undefined) return undefined;
  return {
    cause: `this machine cannot give drives to the target (${first.name}): ${first.found}`,
    cure: `${first.cure}; storage-node doctor checks all of it`,
    waits: "waits until the machine is set up",
  };
}

/** Without drives there is nothing to take from the kernel. */
function hasDrives({ host }: SetupFacts): boolean {
  return host.drives.length > 0;
}

const NO_DRIVES = "there is no NVMe drive that it would be needed for";

function sum(pages: readonly Hugepages[], of: "total" | "free"): bigint {
  return pages.reduce((bytes, one) => bytes + one.pageBytes * one[of], 0n);
}

const TWO_MIB = 2n * 1024n * 1024n;

function hugepages(facts: SetupFacts): Found {
  const { host, target, hugepagesBytes } = facts;
  const total = sum(host.hugepages, "total");
  const free = sum(host.hugepages, "free");
  const found =
    total === 0n
      ? "none are reserved"
      : `${pagesText(host.hugepages)}; ${formatBytes(free)} of ${formatBytes(total)} free`;
  if (target.running) {
    if (total > 0n) return ok(found);
    if (!hasDrives(facts)) return ok("none, and no NVMe drive that the target needs them for");
    const why = "none: the target runs without them, and can attach no NVMe drive of this machine";
    return missing(why, `${reserve(facts, hugepagesBytes)}; restart the target without --no-huge`);
  }
  if (free >= hugepagesBytes) return ok(found);
  const lacks = `${found}; a target needs ${formatBytes(hugepagesBytes)}`;
  return missing(lacks, reserve(facts, hugepagesBytes - free));
}

/** Of 2 MiB: larger ones can only be had at boot. */
function reserve({ host }: SetupFacts, lackingBytes: bigint): string {
  const small = host.hugepages.filter(({ pageBytes }) => pageBytes === TWO_MIB);
  const present = small.reduce((count, { total }) => count + total, 0n);
  const count = present + (lackingBytes + TWO_MIB - 1n) / TWO_MIB;
  return (
    `echo ${count} > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages, and ` +
    `vm.nr_hugepages=${count} in a file of /etc/sysctl.d for the next boot`
  );
}

function pagesText(pages: readonly Hugepages[]): string {
  const shown = pages.filter(({ total }) => total > 0n);
  return shown
    .map(({ node, pageBytes, total }) => {
      const where = node === undefined ? "" : ` on NUMA node ${node}`;
      return `${total} of ${formatBytes(pageBytes)}${where}`;
    })
    .join(", ");
}

function iommu(facts: SetupFacts): Found {
  if (facts.host.hasIommu) return ok("it is on");
  if (!hasDrives(facts)) return ok(NO_DRIVES);
  return missing("it is off, or there is none: no drive can be given to the target", IOMMU_CURE);
}

export const IOMMU_CURE =
  "enable the IOMMU (firmware; kernel command line intel_iommu=on or amd_iommu=on)";

function vfioPci(facts: SetupFacts): Found {
  if (facts.host.hasVfioPci) return ok("the module is loaded");
  if (!hasDrives(facts)) return ok(NO_DRIVES);
  return missing(
    "the module is not loaded",
    "modprobe vfio-pci, and echo vfio-pci > /etc/modules-load.d/vfio-pci.conf for the next boot",
  );
}

function vfioNode(facts: SetupFacts): Found {
  switch (facts.host.vfioNode) {
    case "open":
      return ok("/dev/vfio/vfio can be opened");
    case "refused":
      return missing(
        "/dev/vfio/vfio cannot be opened by this user",
        "run agent and target as root, or give their user /dev/vfio/* by a udev rule",
      );
    case "absent":
      if (!hasDrives(facts)) return ok(NO_DRIVES);
      return missing(
        "/dev/vfio/vfio is not there",
        "modprobe vfio-pci; in a container, give it the /dev/vfio of the host",
      );
  }
}

/** All memory that a drive may reach is locked: SPDK maps every hugepage it has. */
function memlock(facts: SetupFacts): Found {
  const { limits, limitsOf } = facts.target;
  if (!hasDrives(facts)) return ok(NO_DRIVES);
  if (limits === undefined) return unknown(`the limits of ${limitsOf} cannot be read`);
  const { lockedBytes, locksFreely } = limits;
  if (lockedBytes === undefined) return ok(`no limit, of ${limitsOf}`);
  if (locksFreely) return ok(`${limitsOf} may lock memory beyond its limit (CAP_IPC_LOCK)`);
  const needed = max(sum(facts.host.hugepages, "total"), facts.hugepagesBytes);
  const found = `${formatBytes(lockedBytes)}, of ${limitsOf}; ${formatBytes(needed)} of hugepages`;
  if (lockedBytes >= needed) return ok(found);
  return missing(found, "LimitMEMLOCK=infinity in the target's unit, or ulimit -l unlimited");
}

function nofile({ target, openFiles: needed }: SetupFacts): Found {
  const { limits, limitsOf } = target;
  if (limits === undefined) return unknown(`the limits of ${limitsOf} cannot be read`);
  const { openFiles } = limits;
  if (openFiles === undefined) return ok(`no limit, of ${limitsOf}`);
  const found = `${openFiles} open files, of ${limitsOf}; ${needed} with a host on every export`;
  if (openFiles >= needed) return ok(found);
  return advice(found, `LimitNOFILE=${needed} in the target's unit, or ulimit -n ${needed}`);
}

/** Memory and cores far from a drive make each of its operations slower. */
function numa({ host, target }: SetupFacts): Found {
  const nodes = [...new Set(host.drives.flatMap(({ node }) => node ?? []))].toSorted(
    (a, b) => a - b,
  );
  if (nodes.length === 0) return ok("the kernel shows no NUMA node of any drive");
  const bare = nodes.filter((node) => {
    const pages = host.hugepages.filter((one) => one.node === node);
    return pages.length > 0 && sum(pages, "total") === 0n;
  });
  const idle = nodes.filter((node) => {
    const cpus = host.cpus.get(node);
    return (
      target.cpus !== undefined && cpus !== undefined && !target.cpus.some((cpu) => cpus.has(cpu))
    );
  });
  if (bare.length === 0 && idle.length === 0) return ok(`drives are on node ${nodes.join(", ")}`);
  const found = [
    ...bare.map((node) => `node ${node} has drives and no hugepages`),
    ...idle.map((node) => `node ${node} has drives and no reactor of the target`),
  ];
  const cures = [
    ...bare.map(
      (node) =>
        `echo N > /sys/devices/system/node/node${node}/hugepages/hugepages-2048kB/nr_hugepages`,
    ),
    ...(idle.length === 0
      ? []
      : [`start the target with a core of node ${idle.join(", ")} in its core mask (-m)`]),
  ];
  return advice(found.join("; "), cures.join("; "));
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
