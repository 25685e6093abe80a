// What the loops would do, in words: each kind of step, and whether this agent may do it now.
import { describe, expect, it } from "vitest";
import { nextSteps } from "../../src/reconcile/next-steps.ts";
import type { DiskStep, VolumeStep } from "../../src/reconcile/steps.ts";
import { LISTENER } from "../support/model.ts";

const NQN = "nqn.2026-11.io.storage-node:v";
const HOSTS = ["a", "b", "c", "d", "e", "f"].map((name) => `nqn.2026-11.io.host:${name}`);
const PENDING = { run: "r", epoch: 1n, since: new Date(0), failed: false };

const STEPS: readonly (readonly [VolumeStep | DiskStep, string])[] = [
  [{ kind: "observe-lvol", name: "s/v", lvsUuid: "u" }, "look whether lvol s/v is there"],
  [{ kind: "observe-subsystem", nqn: NQN }, `look at subsystem ${NQN}`],
  [
    { kind: "create-lvol", lvolName: "v", lvsUuid: "u", sizeBytes: 8n, thin: true },
    "make the thin lvol v of 8 bytes in store u",
  ],
  [
    {
      kind: "prepare-export",
      nqn: NQN,
      serialNumber: "S",
      modelNumber: "M",
      allowAnyHost: false,
      hosts: HOSTS,
      listeners: [LISTENER],
    },
    `make subsystem ${NQN}, listening on TCP 127.0.0.1:4420, for ${HOSTS.slice(0, 4).join(", ")} and 2 more`,
  ],
  [
    {
      kind: "adjust-export",
      nqn: NQN,
      removeHosts: ["x"],
      addHosts: ["y"],
      allowAnyHost: false,
      addListeners: [{ ...LISTENER, adrfam: "IPv6", traddr: "fd00::1" }],
    },
    `change subsystem ${NQN}: take x's access away, let not any host in, let y in, listen on TCP [fd00::1]:4420`,
  ],
  [
    { kind: "add-namespace", nqn: NQN, lvolUuid: "u", uuid: "v", nguid: "V" },
    `attach lvol u to ${NQN} as nsid 1`,
  ],
  [{ kind: "delete-subsystem", nqn: NQN }, `delete subsystem ${NQN}`],
  [
    { kind: "record-lvol", patch: { pendingOp: { op: "delete", ...PENDING } } },
    "write down that delete is about to be sent",
  ],
  [{ kind: "delete-lvol", lvolUuid: "u" }, "delete lvol u"],
  [
    { kind: "record-disk", patch: { lvsName: "s", clusterBytes: 4n } },
    "write down what is about to be made",
  ],
  [{ kind: "claim-disk", address: "0:1", ours: false }, "take 0:1 from its kernel driver"],
  [
    { kind: "release-function", address: "0:1", driver: "nvme" },
    "give 0:1 back to the driver nvme",
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
  [{ kind: "detach-disk", controllerName: "c" }, "detach c"],
  [
    { kind: "create-store", bdevName: "cn1", storeName: "s", clusterBytes: 4n },
    "format cn1 as store s",
  ],
  [{ kind: "zero-free-space", lvsUuid: "u", lvsName: "s" }, "zero the free clusters of store s"],
];

describe("the next steps of an object", () => {
  it.each(STEPS.map((one) => [one[0].kind, ...one] as const))(
    "say %s in words",
    (_, step, words) => {
      const [said] = nextSteps([{ loop: "one", step }], () => true);
      expect(said).toMatchObject({ loop: "one", allowed: true });
      expect(said?.words).toContain(`${step.kind}: ${words}`);
    },
  );

  it("say which of them may not be taken now", () => {
    const look = { kind: "observe-subsystem", nqn: NQN } as const;
    const remove = { kind: "delete-lvol", lvolUuid: "u" } as const;
    const planned = [
      { loop: "export", step: look },
      { loop: "lvol-delete", step: remove },
    ];
    const said = nextSteps(planned, (act) => act === look.kind);
    expect(said.map(({ loop, allowed }) => [loop, allowed])).toEqual([
      ["export", true],
      ["lvol-delete", false],
    ]);
  });
});
