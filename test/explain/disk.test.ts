// Explanations of disks as a pure function, and the formatting of sizes and addresses.
import { describe, expect, it } from "vitest";
import { isOwnAddress } from "../../src/model/address.ts";
import { formatBytes } from "../../src/model/bytes.ts";
import { explainDisk } from "../../src/explain/disk.ts";
import type { DiskFacts } from "../../src/explain/disk-causes.ts";
import { diskFacts, down, nodeFacts, NOW } from "../support/explain-facts.ts";
import { DISK, diskRow } from "../support/model.ts";

const NOT_OURS = { lvsUuid: undefined, lvsName: undefined, controllerName: undefined } as const;
const BARE = diskRow({ ...NOT_OURS, state: "DISCOVERED", stateReason: "not admitted" });
/** When the claim of a controller is tried again. */
const AGAIN = new Date("2026-11-26T08:00:00Z");

const KERNEL = {
  address: "0000:01:00.0",
  driver: "nvme",
  kernelName: "nvme0n1",
  evidence: [],
} as const;
const MOUNTED = { kind: "MOUNTED", subject: "SERIAL1/1", detail: "at /data" } as const;
const TABLE = { kind: "PARTITION_TABLE", subject: "SERIAL1/1", detail: "GPT" } as const;
const WIPE = { requestedTime: NOW, evidence: [TABLE], reason: "ours", begun: undefined };
const FABRIC = { subnqn: "nqn.2026-11.io.test:disk", format: false };
const fabricRow = diskRow({ transport: "TCP", address: "127.0.0.1:9000", state: "CLAIMING" });

const answersOf = (facts: DiskFacts) =>
  explainDisk(facts)
    .checks.map(({ answer }) => answer[0])
    .join("");

describe("an explanation of an UP disk", () => {
  it("answers YES seven times, and counts what is free, promised and left", () => {
    const row = diskRow({ promisedBytes: 512n * 1024n ** 2n, lvolCount: 2 });
    const said = explainDisk(diskFacts({ row }));
    expect(said.checks.map(({ answer, remedy }) => answer + remedy)).toEqual(
      Array.from({ length: 7 }, () => "YES"),
    );
    expect(said.summary).toBe(
      "disk SERIAL1 is UP: 250 of 255 clusters free (1000 MiB, zeroed), 512 MiB promised to " +
        "2 volumes, 508 MiB left to promise",
    );
    expect(said.nextStep).toBe("nothing: all is as wanted");
  });
});

const CAUSES: readonly (readonly [string, Partial<DiskFacts>, RegExp, RegExp, string])[] = [
  ["hold", { node: nodeFacts({ hold: "behind" }) }, /on hold/, /storage-node rebuild/, "NYYYYYY"],
  [
    "target",
    {
      node: nodeFacts({
        target: { ...nodeFacts().target, ...down("ENOENT"), answers: false },
      }),
      targetConnected: false,
      targetListed: false,
      onTarget: undefined,
      state: "CLAIMING",
    },
    /does not answer at \/run\/spdk.sock/,
    /start the target/,
    "NYUUUYY",
  ],
  [
    "pulled",
    { row: diskRow({ state: "MISSING" }), onTarget: undefined, inKernel: undefined },
    /no PCIe function has the serial SERIAL1 \(last seen at 0000:01:00.0, there since 2026-/,
    /put the drive back.*if it is in another node now, call ReleaseDisk/,
    "NNUNUYY",
  ],
  [
    "a fabric disk that is not served",
    {
      row: { ...fabricRow, lastError: "bdev_nvme_attach_controller answered -5 (…)" },
      onTarget: undefined,
      inKernel: undefined,
      fabric: FABRIC,
    },
    /cannot be attached at 127.0.0.1:9000 \(nqn.2026-11.io.test:disk\): .*answered -5/,
    /make the disk's target answer there/,
    "NNUNUYN",
  ],
  [
    "a fabric disk without an entry",
    { row: fabricRow, onTarget: undefined, inKernel: undefined },
    /no entry of STORAGE_NODE_FABRIC_DISKS names the serial SERIAL1/,
    /put the entry back/,
    "NNUNUYY",
  ],
  [
    "in use",
    {
      row: { ...BARE, state: "IN_USE" },
      onTarget: undefined,
      inKernel: { ...KERNEL, evidence: [MOUNTED] },
    },
    /MOUNTED SERIAL1\/1 at \/data/,
    /unmount it; the agent then inspects it again by itself/,
    "NYNNUYY",
  ],
  [
    "partitioned",
    {
      row: { ...BARE, state: "FOREIGN" },
      onTarget: undefined,
      inKernel: { ...KERNEL, evidence: [TABLE] },
    },
    /PARTITION_TABLE SERIAL1\/1 GPT/,
    /call WipeDisk \(storage-node disk wipe ID\)/,
    "NYNNUYY",
  ],
  [
    "being wiped",
    {
      row: { ...BARE, state: "FOREIGN", wipe: WIPE },
      onTarget: undefined,
      inKernel: { ...KERNEL, evidence: [TABLE] },
    },
    /it is being wiped, as was asked for at 2026-/,
    /or wait/,
    "NYNNUYY",
  ],
  [
    "not wiped after all",
    {
      row: { ...BARE, state: "FOREIGN", wipeEnded: "then: not wiped: EVIDENCE_CHANGED: GPT" },
      onTarget: undefined,
      inKernel: { ...KERNEL, evidence: [TABLE] },
    },
    /a wipe of it ended at then: not wiped: EVIDENCE_CHANGED: GPT/,
    /call WipeDisk again with the fingerprint of now/,
    "NYNNUYY",
  ],
  [
    "a double",
    {
      row: { ...BARE, state: "CONFLICT" },
      onTarget: undefined,
      inKernel: KERNEL,
      conflict: "it is seen at 1 and at 2",
    },
    /it is seen at 1 and at 2/,
    /take one of the two disks/,
    "NYNNUYY",
  ],
  [
    "on a controller that is not taken",
    {
      row: { ...BARE, state: "CLAIMING" },
      state: "CLAIMING",
      onTarget: undefined,
      inKernel: { ...KERNEL, evidence: [] },
      waits: "0000:02:00.0 is taken with it: none of its disks is admitted",
    },
    /0000:02:00.0 is taken with it/,
    /call AdmitDisk for a disk on that controller/,
    "NYYNUYY",
  ],
  [
    "not admitted",
    {
      row: { ...BARE, admitted: false },
      onTarget: undefined,
      inKernel: KERNEL,
    },
    /nobody has admitted it yet/,
    new RegExp(
      `call AdmitDisk {"diskId": "${DISK}", "serial": "SERIAL1"} \\(storage-node disk admit ID\\)`,
    ),
    "NYYNUYY",
  ],
  [
    "given up",
    { row: diskRow({ state: "FAILED", stateReason: "lvstore X was not found on the disk" }) },
    /lvstore X was not found on the disk/,
    /AdmitDisk tries again/,
    "NYYYYYY",
  ],
  [
    "being released",
    {
      row: { ...BARE, wanted: "release", admitted: false },
      state: "RELEASING",
      reason: "it goes together with S2/1, which is in use",
    },
    /it is being released: it goes together with S2\/1/,
    /has to be released, too/,
    "NYUYYYY",
  ],
  [
    "released and pulled",
    {
      row: { ...BARE, wanted: "release", admitted: false, state: "RELEASED" },
      onTarget: undefined,
      inKernel: undefined,
    },
    /it was released and is not in this machine/,
    /put it back if it was pulled/,
    "NUUNUYY",
  ],
  [
    "given back",
    {
      row: { ...BARE, state: "FAILED", stateReason: "NO_HUGEPAGES" },
      onTarget: undefined,
      inKernel: KERNEL,
      setback: { reason: "NO_HUGEPAGES: none is free", nextTryTime: AGAIN },
    },
    /NO_HUGEPAGES: none is free; its controller was given back .* is tried again at 2026-11-26T08:00:00Z/,
    /reserve hugepages .*; AdmitDisk, or a restart of the target, has it tried at once/,
    "NYYNUYY",
  ],
  [
    "somebody's store",
    {
      row: diskRow({ state: "FOREIGN", stateReason: "OTHER_FLEET: holds the lvstore sn-x" }),
    },
    /OTHER_FLEET: holds the lvstore sn-x/,
    /call AdoptDisk .*ReleaseDisk gives the disk back to its owner/,
    "NYYYNYY",
  ],
  [
    "may not be formatted",
    {
      row: { ...fabricRow, ...NOT_OURS, state: "FOREIGN", stateReason: "it has no lvstore" },
      onTarget: { controllerName: "c", bdevName: "cn1", store: undefined },
      inKernel: undefined,
      fabric: FABRIC,
    },
    /it has no lvstore/,
    /set "format": true in its entry/,
    "NYUYNYY",
  ],
  [
    "dirty",
    { row: diskRow({ freeSpace: "UNKNOWN" }) },
    /may hold bytes of deleted volumes/,
    new RegExp(`ZeroFreeSpace {"diskId": "${DISK}"}`),
    "YYYYNYY",
  ],
  [
    "full",
    { freeClusters: 0n },
    /it is full: 0 of 255 clusters free/,
    /call Delete for volumes nobody needs/,
    "YYYYNYY",
  ],
  [
    "cordoned",
    { row: diskRow({ cordoned: true }) },
    /takes no new volumes/,
    /call Uncordon/,
    "YYYYNYY",
  ],
  [
    "promised",
    { row: diskRow({ promisedBytes: 1020n * 1024n ** 2n, lvolCount: 7 }) },
    /all of its 1020 MiB are promised, to 7 volumes/,
    /STORAGE_NODE_OVERCOMMIT/,
    "YYYYNYY",
  ],
];

describe("the summary of a disk's explanation", () => {
  it.each(CAUSES)("names the cause and the cure: %s", (_name, change, cause, cure, answers) => {
    const facts = diskFacts(change);
    const [said, ...cures] = explainDisk(facts).summary.split("; cure: ");
    expect(said).toMatch(cause);
    expect(cures.join("")).toMatch(cure);
    expect(answersOf(facts)).toBe(answers);
  });

  it("accepts old bytes where tenants trust each other, and reports a requested zeroing", () => {
    const row = diskRow({ freeSpace: "UNKNOWN" });
    expect(answersOf(diskFacts({ row, isolation: "trusted" }))).toBe("YYYYYYY");
    const asked = diskFacts({ row: { ...row, zeroRequestedTime: NOW } });
    expect(explainDisk(asked).summary).toContain("are being zeroed");
  });

  it("never calls a disk blank that could not be inspected", () => {
    const inKernel = { ...KERNEL, driver: "vfio-pci", evidence: undefined };
    const said = explainDisk(diskFacts({ row: BARE, onTarget: undefined, inKernel }));
    expect(said.checks[2]).toMatchObject({
      answer: "UNKNOWN",
      evidence: "it cannot be inspected under the driver vfio-pci",
    });
    expect(said.checks[2]?.remedy).toContain("AdmitDisk with the address 0000:01:00.0");
  });

  it("never says to unbind a disk that is on vfio-pci, which the target may be using", () => {
    const row = diskRow({ ...NOT_OURS, state: "FOREIGN", stateReason: "OTHER_FLEET: sn-x" });
    const attached = explainDisk(diskFacts({ row })).checks[2];
    expect(attached).toMatchObject({ answer: "UNKNOWN", remedy: "" });
    expect(attached?.evidence).toBe("it cannot be inspected while it is attached in SPDK");
    const inKernel = { ...KERNEL, driver: "vfio-pci", evidence: undefined };
    const taken = explainDisk(diskFacts({ row: BARE, onTarget: undefined, inKernel })).checks[2];
    expect(taken?.remedy).not.toContain("unbind");
    const bare = { ...KERNEL, driver: undefined, evidence: undefined };
    const free = explainDisk(diskFacts({ row: BARE, onTarget: undefined, inKernel: bare }));
    expect(free.checks[2]?.remedy).toContain("echo 0000:01:00.0 > /sys/bus/pci/drivers_probe");
  });

  it("says to admit a disk only after what speaks against it has been ended", () => {
    const row = { ...BARE, admitted: false, state: "FOREIGN" } as const;
    const inKernel = { ...KERNEL, evidence: [TABLE] };
    const said = explainDisk(diskFacts({ row, onTarget: undefined, inKernel }));
    expect(said.checks[0]?.remedy).toMatch(/^first what question 3 says; then call AdmitDisk/);
  });
});

describe("values in explanations", () => {
  it.each([
    [0n, "0 bytes"],
    [1023n, "1023 bytes"],
    [1024n, "1 KiB"],
    [1536n, "1.5 KiB"],
    [10n * 1024n ** 3n, "10 GiB"],
    [10n * 1024n ** 3n - 1n, "9.9 GiB"],
    [2n ** 60n, "1024 PiB"],
  ])("%s bytes are %s", (bytes, text) => {
    expect(formatBytes(bytes)).toBe(text);
  });

  it.each([
    ["127.0.0.9", true],
    ["0.0.0.0", true],
    ["::1", true],
    ["198.51.100.7", true],
    ["198.51.100.8", false],
    ["FE80::1", true],
    ["fe80:0:0:0:0:0:0:1", true],
    ["fe80::2", false],
  ])("%s is an address of this machine: %s", (address, own) => {
    expect(isOwnAddress(address, ["198.51.100.7", "fe80::1%eth0"])).toBe(own);
  });
});
