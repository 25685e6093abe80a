// The text of planned steps: each kind of step, and whether the write mode permits it.
import { describe, expect, it } from "vitest";
import { NO_LIMITS } from "../../src/model/lvol.ts";
import { nextSteps } from "../../src/reconcile/next-steps.ts";
import type { ControllerStep, DiskStep, VolumeStep } from "../../src/reconcile/steps.ts";
import { LISTENER } from "../support/model.ts";

const NQN = "nqn.2026-11.io.storage-node:v";
const HOSTS = ["a", "b", "c", "d", "e", "f"].map((name) => `nqn.2026-11.io.host:${name}`);
const PENDING = { run: "r", epoch: 1n, since: new Date(0), failed: false };

const IPV6 = { ...LISTENER, adrfam: "IPv6", traddr: "fd00::1" };
const PREPARE = {
  kind: "prepare-export",
  nqn: NQN,
  serialNumber: "S",
  modelNumber: "M",
  dmrsl: undefined,
  allowAnyHost: false,
} as const;

const STEPS: readonly (readonly [VolumeStep | DiskStep | ControllerStep, string])[] = [
  [{ kind: "observe-lvol", name: "s/v", lvsUuid: "u" }, "read lvol s/v"],
  [{ kind: "observe-subsystem", nqn: NQN }, `read subsystem ${NQN}`],
  [
    { kind: "create-lvol", lvolName: "v", lvsUuid: "u", sizeBytes: 8n, thin: true },
    "create the thin lvol v of 8 bytes in lvstore u",
  ],
  [
    { ...PREPARE, hosts: HOSTS },
    `create subsystem ${NQN} for ${HOSTS.slice(0, 4).join(", ")} and 2 more`,
  ],
  [{ ...PREPARE, hosts: [] }, `create subsystem ${NQN} for no host yet`],
  [{ ...PREPARE, hosts: ["x"], allowAnyHost: true }, `create subsystem ${NQN} for any host`],
  [{ kind: "allow-host", nqn: NQN, host: "y" }, `let host y connect to ${NQN}`],
  [{ kind: "deny-host", nqn: NQN, host: "x" }, `remove host x from ${NQN}`],
  [{ kind: "set-any-host", nqn: NQN, allowAnyHost: true }, `let any host connect to ${NQN}`],
  [
    { kind: "set-any-host", nqn: NQN, allowAnyHost: false },
    `no longer let any host connect to ${NQN}`,
  ],
  [
    { kind: "add-namespace", nqn: NQN, lvolUuid: "u", uuid: "v", nguid: "V" },
    `attach lvol u to ${NQN} as nsid 1`,
  ],
  [{ kind: "add-listener", nqn: NQN, address: IPV6 }, `listen on TCP [fd00::1]:4420 for ${NQN}`],
  [
    { kind: "remove-listener", nqn: NQN, address: LISTENER },
    `no longer listen on TCP 127.0.0.1:4420 for ${NQN}`,
  ],
  [
    { kind: "end-export", nqn: NQN, forced: false, listeners: [LISTENER], attached: true },
    `delete subsystem ${NQN} unless a host is connected`,
  ],
  [
    { kind: "end-export", nqn: NQN, forced: true, listeners: [], attached: false },
    `delete subsystem ${NQN} although hosts may be connected`,
  ],
  [{ kind: "rename-lvol", lvolUuid: "u", lvsUuid: "s", newName: "v" }, "give lvol u the name v"],
  [
    { kind: "record-lvol", patch: { pendingOp: { op: "delete", ...PENDING } } },
    "record that delete is about to be sent",
  ],
  [
    { kind: "record-lvol", patch: { pendingOp: { op: "resize", ...PENDING } } },
    "record that resize is about to be sent",
  ],
  [{ kind: "resize-lvol", lvolUuid: "u", sizeBytes: 8n }, "grow lvol u to 8 bytes"],
  [
    { kind: "set-qos", nqn: NQN, lvolUuid: "u", limits: { ...NO_LIMITS, rwIops: 5n } },
    "limit lvol u to 5 operations per second",
  ],
  [{ kind: "set-qos", nqn: NQN, lvolUuid: "u", limits: NO_LIMITS }, "take all limits from lvol u"],
  [{ kind: "delete-lvol", lvolUuid: "u" }, "delete lvol u"],
  [
    { kind: "record-disk", patch: { lvsName: "s", clusterBytes: 4n } },
    "record what is about to be changed",
  ],
  [
    { kind: "claim-controllers", addresses: ["0:1", "0:2"], disks: ["d"] },
    "rebind 0:1, 0:2 from the kernel driver to vfio-pci",
  ],
  [
    { kind: "release-controllers", returns: [{ address: "0:1", driver: "nvme" }] },
    "give back 0:1 to nvme",
  ],
  [{ kind: "attach-controller", controllerName: "c", traddr: "0:1" }, "attach PCIe 0:1 as c"],
  [
    { kind: "record-controller", patch: { originalDriver: "nvme" } },
    "record what is about to be changed",
  ],
  [
    {
      kind: "attach-disk",
      controllerName: "c",
      trtype: "TCP",
      traddr: "192.0.2.1",
      trsvcid: "4420",
      subnqn: "n",
    },
    "attach TCP 192.0.2.1 (n) as c",
  ],
  [{ kind: "detach-controller", controllerName: "c" }, "detach c"],
  [
    { kind: "create-store", bdevName: "cn1", storeName: "s", clusterBytes: 4n },
    "format cn1 as lvstore s",
  ],
  [{ kind: "observe-slices", lvsUuid: "u" }, "read which slices of free space lvstore u has"],
  [{ kind: "pin-free-space", lvsUuid: "u" }, "make slices of all free clusters of lvstore u"],
  [
    { kind: "zero-slice", lvsUuid: "u", lvolUuid: "l", name: "zero-free-space-1" },
    "zero the free clusters that zero-free-space-1 holds",
  ],
  [{ kind: "wipe-disk", address: "0:1" }, "zero the first and the last bytes of the disk at 0:1"],
];

describe("nextSteps", () => {
  it.each(STEPS.map(([step, words]) => [step.kind, step, words] as const))(
    "describes %s",
    (_, step, words) => {
      const [described] = nextSteps([{ loop: "one", step }], () => true);
      expect(described).toMatchObject({ loop: "one", allowed: true });
      expect(described?.words).toContain(`${step.kind}: ${words}`);
    },
  );

  it("marks steps that the write mode does not permit", () => {
    const observe = { kind: "observe-subsystem", nqn: NQN } as const;
    const remove = { kind: "delete-lvol", lvolUuid: "u" } as const;
    const planned = [
      { loop: "export", step: observe },
      { loop: "lvol-delete", step: remove },
    ];
    const described = nextSteps(planned, (act) => act === observe.kind);
    expect(described.map(({ loop, allowed }) => [loop, allowed])).toEqual([
      ["export", true],
      ["lvol-delete", false],
    ]);
  });
});
