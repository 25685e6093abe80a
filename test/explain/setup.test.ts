// What a machine lacks for its target, and the command that cures it.
import { describe, expect, it } from "vitest";
import { explainDisk } from "../../src/explain/disk.ts";
import { setupChecks, type SetupFacts } from "../../src/explain/setup.ts";
import type { HostSetup, Hugepages } from "../../src/model/host-setup.ts";
import { diskFacts } from "../support/explain-facts.ts";
import { diskRow } from "../support/model.ts";

const MIB = 1024n ** 2n;

function pages(total: bigint, change: Partial<Hugepages> = {}): Hugepages {
  return { node: undefined, pageBytes: 2n * MIB, total, free: total, ...change };
}

const DRIVE = {
  address: "0000:01:00.0",
  driver: "nvme",
  node: undefined,
  serial: "S1",
  model: "M1",
} as const;

const HOST: HostSetup = {
  hugepages: [pages(512n)],
  hasIommu: true,
  hasVfioPci: true,
  vfioNode: "open",
  drives: [DRIVE],
  cpus: new Map(),
};

function facts(
  host: Partial<HostSetup> = {},
  target: Partial<SetupFacts["target"]> = {},
): SetupFacts {
  return {
    host: { ...HOST, ...host },
    target: {
      running: false,
      cpus: undefined,
      limits: { lockedBytes: undefined, openFiles: undefined, locksFreely: false },
      limitsOf: "the target",
      ...target,
    },
    hugepagesBytes: 880n * MIB,
    openFiles: 2_300n,
  };
}

const named = (name: string, of: SetupFacts) =>
  setupChecks(of).find((check) => check.name === name);

it("nothing is missing on a machine that is set up", () => {
  expect(setupChecks(facts()).map(({ verdict }) => verdict)).toEqual(Array(7).fill("OK"));
});

const NUMBERED = [
  { node: 0, cpus: [0, 1] },
  { node: 1, cpus: [2, 3] },
];
const TWO_NODES: Partial<HostSetup> = {
  hugepages: [pages(512n, { node: 0 }), pages(0n, { node: 1 })],
  drives: [
    { ...DRIVE, node: 0 },
    { ...DRIVE, address: "0000:81:00.0", node: 1 },
  ],
  cpus: new Map(NUMBERED.map(({ node, cpus }) => [node, new Set(cpus)])),
};

describe("it is found that", () => {
  it.each([
    [
      "no hugepages are reserved",
      facts({ hugepages: [] }),
      "hugepages",
      "MISSING",
      /^none/,
      /^echo 440 > /,
    ],
    [
      "there are too few",
      facts({ hugepages: [pages(16n)] }),
      "hugepages",
      "MISSING",
      /32 MiB of 32 MiB free; a target needs 880 MiB/,
      /^echo 440 > .*vm.nr_hugepages=440/,
    ],
    [
      "others have taken them",
      facts({ hugepages: [pages(512n, { free: 100n })] }),
      "hugepages",
      "MISSING",
      /200 MiB of 1 GiB free/,
      /^echo 852 > /,
    ],
    [
      "large ones will do",
      facts({ hugepages: [pages(1n, { pageBytes: 1024n * MIB })] }),
      "hugepages",
      "OK",
      /^1 of 1 GiB; /,
      /^$/,
    ],
    [
      "the running target has them",
      facts({ hugepages: [pages(512n, { free: 0n })] }, { running: true }),
      "hugepages",
      "OK",
      /0 bytes of 1 GiB free/,
      /^$/,
    ],
    [
      "the target runs without",
      facts({ hugepages: [] }, { running: true }),
      "hugepages",
      "MISSING",
      /runs without them/,
      /restart the target without --no-huge/,
    ],
    [
      "it needs none on a fabric",
      facts({ hugepages: [], drives: [] }, { running: true }),
      "hugepages",
      "OK",
      /no NVMe drive/,
      /^$/,
    ],
    ["there is no IOMMU", facts({ hasIommu: false }), "IOMMU", "MISSING", /off/, /intel_iommu=on/],
    [
      "none is needed without drives",
      facts({ hasIommu: false, drives: [] }),
      "IOMMU",
      "OK",
      /no NVMe drive/,
      /^$/,
    ],
    [
      "vfio-pci is not loaded",
      facts({ hasVfioPci: false }),
      "vfio-pci",
      "MISSING",
      /not loaded/,
      /^modprobe vfio-pci/,
    ],
    [
      "/dev/vfio is not there",
      facts({ vfioNode: "absent" }),
      "/dev/vfio",
      "MISSING",
      /not there/,
      /container/,
    ],
    [
      "/dev/vfio is somebody else's",
      facts({ vfioNode: "refused" }),
      "/dev/vfio",
      "MISSING",
      /this user/,
      /root/,
    ],
    [
      "too little memory may be locked",
      facts({}, { limits: { lockedBytes: 8n * MIB, openFiles: undefined, locksFreely: false } }),
      "memlock",
      "MISSING",
      /^8 MiB, of the target; 1 GiB of hugepages$/,
      /LimitMEMLOCK=infinity/,
    ],
    [
      "root locks what it likes",
      facts({}, { limits: { lockedBytes: 8n * MIB, openFiles: undefined, locksFreely: true } }),
      "memlock",
      "OK",
      /CAP_IPC_LOCK/,
      /^$/,
    ],
    [
      "limits cannot be read",
      facts({}, { limits: undefined }),
      "memlock",
      "UNKNOWN",
      /cannot be read/,
      /^$/,
    ],
    [
      "hosts may find no socket",
      facts({}, { limits: { lockedBytes: undefined, openFiles: 1_024n, locksFreely: true } }),
      "nofile",
      "ADVICE",
      /^1024 open files, of the target; 2300 /,
      /LimitNOFILE=2300/,
    ],
    [
      "a node of drives has no hugepages",
      facts(TWO_NODES),
      "NUMA",
      "ADVICE",
      /^node 1 has drives and no hugepages$/,
      /node1\/hugepages/,
    ],
    [
      "a node of drives has no reactor",
      facts(TWO_NODES, { cpus: [0, 1] }),
      "NUMA",
      "ADVICE",
      /node 1 has drives and no reactor/,
      /core of node 1 .*-m/,
    ],
  ] as const)("%s", (_what, of, name, verdict, found, cure) => {
    const check = named(name, of);
    expect(check?.verdict).toBe(verdict);
    expect(check?.found).toMatch(found);
    expect(check?.cure).toMatch(cure);
  });
});

describe("Explain of a drive that is not attached", () => {
  const row = diskRow({ state: "CLAIMING", lvsUuid: undefined, controllerName: undefined });
  const kernel = { address: "0000:01:00.0", driver: "nvme", kernelName: "nvme0n1", evidence: [] };
  const drive = { row, onTarget: undefined, inKernel: kernel };

  it("names what the machine lacks, with the same cure", () => {
    const setup = setupChecks(facts({ hugepages: [] }));
    const { summary } = explainDisk(diskFacts({ ...drive, setup }));
    expect(summary).toContain("cannot give drives to the target (hugepages): none are reserved");
    expect(summary).toContain(named("hugepages", facts({ hugepages: [] }))?.cure ?? "-");
  });

  it("says first that nobody has admitted it", () => {
    const setup = setupChecks(facts({ hugepages: [] }));
    const bare = { ...drive, row: { ...row, admitted: false } };
    expect(explainDisk(diskFacts({ ...bare, setup })).summary).toContain("nobody has admitted it");
  });

  it("says nothing of a machine that is set up", () => {
    const { summary } = explainDisk(diskFacts({ ...drive, setup: setupChecks(facts()) }));
    expect(summary).not.toContain("machine");
  });
});
