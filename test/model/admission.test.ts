import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { admit, type AdmissionState, type Mutation } from "../../src/model/admission.ts";
import { promisableBytes, type DiskRow } from "../../src/model/disk.ts";
import { Refusal } from "../../src/model/errors.ts";
import type { HostConfirmation } from "../../src/model/host-admission.ts";
import { uuidV5 } from "../../src/model/identity.ts";
import { ANY_HOST, type CreationRequest } from "../../src/model/lvol.ts";
import { CLUSTER, creationRequest, DISK, diskRow, lvolRow, MIB, VOLUME } from "../support/model.ts";

function state(change: Partial<AdmissionState> = {}): AdmissionState {
  const disks = [diskRow()];
  return {
    policy: {
      nodeId: "node-1",
      nqnPrefix: "nqn.2026-11.io.storage-node",
      overcommit: 1,
      maxExports: 1022,
      isolation: "strict",
      zeroing: "manual",
    },
    limits: { hosts: 3 },
    nodeCordoned: false,
    now: new Date(),
    revision: 7n,
    lvols: new Map(),
    snapshots: new Map(),
    gone: new Map(),
    disks: new Map(disks.map((disk) => [disk.id, disk])),
    controllers: new Map(),
    volumeOfLvol: () => undefined,
    ...change,
  };
}

function provision(change: Partial<Extract<Mutation, { kind: "provision" }>> = {}): Mutation {
  return {
    kind: "provision",
    id: VOLUME,
    request: creationRequest(),
    labels: {},
    validateOnly: false,
    actor: "test",
    traceparent: undefined,
    ...change,
  };
}

function refusal(act: () => unknown): Refusal {
  try {
    act();
  } catch (error) {
    if (error instanceof Refusal) return error;
    throw error;
  }
  throw new Error("was not refused");
}

function lvolOf(given: AdmissionState, mutation: Mutation) {
  const decision = admit(given, mutation);
  if (decision.kind !== "lvol" || decision.row === undefined) throw new Error("no volume");
  return decision.row;
}

describe("admission of a new volume", () => {
  it("promises whole clusters on the disk and fixes the disk in the row", () => {
    const given = state();
    const row = lvolOf(given, provision());
    expect(row.diskId).toBe(DISK);
    expect(row.promisedBytes).toBe(3n * CLUSTER);
    expect(given.disks.get(DISK)).toMatchObject({ promisedBytes: 3n * CLUSTER, lvolCount: 1 });
  });

  it("answers a repeat with the same row, also after hosts were changed", () => {
    const given = state();
    const first = lvolOf(given, provision());
    admit(given, {
      kind: "allowHost",
      id: VOLUME,
      host: "nqn.2014-08.org.nvmexpress:uuid:1",
      actor: "test",
      traceparent: undefined,
    });
    const again = lvolOf(given, provision());
    expect(again.createTime).toBe(first.createTime);
    expect(given.disks.get(DISK)?.lvolCount).toBe(1);
  });

  it("names every field in which a repeat differs", () => {
    const given = state();
    admit(given, provision());
    const other = creationRequest({ sizeBytes: 20n * MIB, thin: false, allowAnyHost: true });
    const refused = refusal(() => admit(given, provision({ request: other })));
    expect(refused.code).toBe("ALREADY_EXISTS");
    expect(refused.details.metadata).toEqual({
      fields: "size_bytes,provisioning,allow_any_host",
    });
  });

  it("accepts a repeat without disk_id, whichever disk was chosen", () => {
    const given = state();
    admit(given, provision({ request: creationRequest({ diskId: DISK }) }));
    expect(lvolOf(given, provision()).diskId).toBe(DISK);
  });

  it("never gives the id of a deleted volume to a new one", () => {
    const given = state({
      lvols: new Map([
        [VOLUME, lvolRow({ deleteRequestedTime: new Date(), deleteTime: new Date() })],
      ]),
    });
    expect(refusal(() => admit(given, provision())).reason).toBe("ID_RETIRED");
  });

  it("refuses an id that another node uses", () => {
    const given = state({ lvols: new Map([[VOLUME, lvolRow({ nodeId: "node-2" })]]) });
    expect(refusal(() => admit(given, provision())).reason).toBe("OTHER_NODE");
  });

  it.each([
    [true, "ID_RETIRED"],
    [false, "OTHER_NODE"],
  ])("refuses an id whose row is gone, ours: %s, with %s", (ours, reason) => {
    const given = state({ gone: new Map([[VOLUME, { ours }]]) });
    expect(refusal(() => admit(given, provision())).reason).toBe(reason);
    expect(refusal(() => admit(given, provision({ validateOnly: true }))).reason).toBe(reason);
  });

  it("is OUT_OF_RANGE above the largest disk and RESOURCE_EXHAUSTED above the bytes left", () => {
    const given = state();
    const huge = provision({ request: creationRequest({ sizeBytes: 2n ** 60n }) });
    expect(refusal(() => admit(given, huge)).code).toBe("OUT_OF_RANGE");
    admit(given, provision({ request: creationRequest({ sizeBytes: 1000n * MIB }) }));
    const more = provision({
      id: uuidV5(VOLUME, "2"),
      request: creationRequest({ sizeBytes: 100n * MIB }),
    });
    const refused = refusal(() => admit(given, more));
    expect(refused.reason).toBe("NO_DISK_FITS");
    expect(refused.details.quota?.[0]?.description).toContain("20971520");
    expect(refused.message).toContain("the emptiest has 20971520 left");
  });

  it("says how much is left on the disks that are large enough, whatever smaller ones may promise", () => {
    const small = uuidV5(DISK, "2");
    const disks = new Map([
      [DISK, diskRow({ promisedBytes: 250n * CLUSTER })],
      [small, diskRow({ id: small, totalClusters: 100n })],
    ]);
    const asked = provision({ request: creationRequest({ sizeBytes: 200n * CLUSTER }) });
    const refused = refusal(() => admit(state({ disks }), asked));
    expect(refused.reason).toBe("NO_DISK_FITS");
    expect(refused.message).toContain(`the emptiest has ${5n * CLUSTER} left`);
  });

  it("promises no bytes that orphans hold, and leaves a full disk for the last", () => {
    const [one, two] = [DISK, uuidV5(DISK, "2")];
    const disks = (change: Partial<DiskRow>) =>
      new Map([
        [one, diskRow({ id: one, ...change })],
        [two, diskRow({ id: two, promisedBytes: CLUSTER })],
      ]);
    expect(lvolOf(state({ disks: disks({}) }), provision()).diskId).toBe(one);
    const orphanBytes = new Map([[one, 2n * CLUSTER]]);
    expect(lvolOf(state({ disks: disks({}) }), provision({ orphanBytes })).diskId).toBe(two);
    const full = { freeClusters: 0n };
    expect(lvolOf(state({ disks: disks(full) }), provision()).diskId).toBe(two);
    const alone = state({ disks: new Map([[one, diskRow({ id: one, ...full })]]) });
    expect(lvolOf(alone, provision()).diskId).toBe(one);
    const all = new Map([[one, 2n ** 50n]]);
    const named = provision({ request: creationRequest({ diskId: one }), orphanBytes: all });
    expect(refusal(() => admit(state(), named)).reason).toBe("NO_CAPACITY");
  });

  it("places nothing where the clusters that are needed at once are not free, whatever is promised", () => {
    const [one, two] = [DISK, uuidV5(DISK, "2")];
    const disks = () =>
      new Map([
        [one, diskRow({ id: one, freeClusters: 255n })],
        [two, diskRow({ id: two, promisedBytes: 100n * CLUSTER })],
      ]);
    const asked = (free: readonly [bigint, bigint], request: Partial<CreationRequest> = {}) =>
      provision({
        request: creationRequest({ sizeBytes: 3n * CLUSTER, ...request }),
        freeClusters: new Map([
          [one, free[0]],
          [two, free[1]],
        ]),
      });
    const placed = (...how: Parameters<typeof asked>) =>
      lvolOf(state({ disks: disks() }), asked(...how)).diskId;
    const refused = (...how: Parameters<typeof asked>) =>
      refusal(() => admit(state({ disks: disks() }), asked(...how)));
    expect(placed([1n, 255n])).toBe(one);
    expect(placed([0n, 255n])).toBe(two);
    expect(placed([2n, 3n], { thin: false })).toBe(two);
    expect(refused([0n, 0n]).reason).toBe("NO_DISK_FITS");
    expect(refused([0n, 0n]).message).toContain("the emptiest has 0 left");
    expect(refused([2n, 2n], { thin: false }).details.quota?.[0]?.description).toContain(
      `${2n * CLUSTER} left`,
    );
    const full = refused([0n, 255n], { diskId: one });
    expect(full.reason).toBe("NO_CAPACITY");
    expect(full.message).toContain("0 free: hosts' data and orphans hold the rest");
  });

  it("refuses a disk whose free space may hold old bytes, unless tenants trust each other", () => {
    const disks = new Map([[DISK, diskRow({ freeSpace: "UNKNOWN" })]]);
    expect(refusal(() => admit(state({ disks }), provision())).reason).toBe(
      "FREE_SPACE_NOT_ZEROED",
    );
    const trusted = state({ disks });
    const policy = { ...trusted.policy, isolation: "trusted" } as const;
    expect(lvolOf({ ...trusted, policy }, provision()).diskId).toBe(DISK);
  });

  it("names the state of a requested disk that is not UP, and answers NOT_FOUND if there is none", () => {
    const disks = new Map([[DISK, diskRow({ state: "MISSING", stateReason: "pulled" })]]);
    const named = provision({ request: creationRequest({ diskId: DISK }) });
    expect(refusal(() => admit(state({ disks }), named)).message).toContain("MISSING");
    expect(refusal(() => admit(state({ disks: new Map() }), named)).reason).toBe("NOT_FOUND");
  });

  it("refuses a volume above the limit of exports", () => {
    const disks = new Map([[DISK, diskRow({ lvolCount: 1022 })]]);
    expect(refusal(() => admit(state({ disks }), provision())).reason).toBe("EXPORT_LIMIT");
  });

  it("writes nothing when only validating", () => {
    const given = state();
    admit(given, provision({ validateOnly: true }));
    expect(given.lvols.size).toBe(0);
    expect(given.disks.get(DISK)?.promisedBytes).toBe(0n);
  });

  it("never promises more than the limit of a disk, for any sequence of requests", () => {
    const sizes = fc.array(
      fc.record({ mib: fc.bigInt({ min: 1n, max: 1200n }), thin: fc.boolean() }),
      { maxLength: 60 },
    );
    fc.assert(
      fc.property(sizes, fc.constantFrom(1, 1.5, 4), (asked, overcommit) => {
        const other = uuidV5(DISK, "other");
        const disks = new Map([
          [DISK, diskRow()],
          [other, diskRow({ id: other, totalClusters: 127n })],
        ]);
        const given = state({ disks });
        const policy = { ...given.policy, overcommit };
        asked.forEach(({ mib, thin }, index) => {
          const request = creationRequest({ sizeBytes: mib * MIB, thin });
          try {
            admit({ ...given, policy }, provision({ id: uuidV5(VOLUME, `${index}`), request }));
          } catch (error) {
            if (!(error instanceof Refusal)) throw error;
          }
        });
        for (const disk of given.disks.values()) {
          const rows = [...given.lvols.values()].filter((row) => row.diskId === disk.id);
          const sum = rows.reduce((total, row) => total + row.promisedBytes, 0n);
          expect(disk.promisedBytes).toBe(sum);
          expect(disk.lvolCount).toBe(rows.length);
          expect(sum <= promisableBytes(disk, overcommit)).toBe(true);
        }
      }),
    );
  });
});

describe("admission of other changes", () => {
  it("accepts the deletion of an unknown id and changes nothing", () => {
    const decision = admit(state(), {
      kind: "delete",
      id: VOLUME,
      force: false,
      reason: "",
      actor: "test",
      traceparent: undefined,
    });
    expect(decision).toEqual({ kind: "lvol", row: undefined });
  });

  it("keeps the first deletion's time when it is repeated", () => {
    const given = state({ lvols: new Map([[VOLUME, lvolRow()]]) });
    const remove: Mutation = {
      kind: "delete",
      id: VOLUME,
      force: false,
      reason: "",
      actor: "test",
      traceparent: undefined,
    };
    const first = lvolOf(given, remove);
    expect(lvolOf(given, remove)).toBe(first);
    expect(first.generation).toBe(2n);
  });

  describe("a repeated deletion", () => {
    const deletion = (force: boolean, actor: string): Mutation => ({
      kind: "delete",
      id: VOLUME,
      force,
      reason: force ? "the host is dead" : "",
      actor,
      traceparent: undefined,
    });

    it("that adds force is a new intent with its reason; one that takes it back is not", () => {
      const given = state({ lvols: new Map([[VOLUME, lvolRow()]]) });
      const first = lvolOf(given, deletion(false, "a"));
      expect(first).toMatchObject({ deleteForced: false, deleteReason: undefined, actor: "a" });
      const second = lvolOf({ ...given, now: new Date(0) }, deletion(true, "b"));
      expect(second).toMatchObject({
        generation: 3n,
        deleteForced: true,
        deleteReason: "the host is dead",
        deleteRequestedTime: first.deleteRequestedTime,
        actor: "b",
      });
      expect(lvolOf(given, deletion(true, "c"))).toBe(second);
      expect(lvolOf(given, deletion(false, "c"))).toBe(second);
    });

    it("stores force and reason of a first one that is forced", () => {
      const given = state({ lvols: new Map([[VOLUME, lvolRow()]]) });
      const row = lvolOf(given, deletion(true, "a"));
      expect(row).toMatchObject({ deleteForced: true, deleteReason: "the host is dead" });
    });

    it("is a new intent if the deletion gave up, and stays forced if it was", () => {
      const deleteRequestedTime = new Date(0);
      const row = lvolRow({ deleteRequestedTime, deleteForced: true, failed: true, attempt: 7 });
      const given = state({ lvols: new Map([[VOLUME, row]]) });
      expect(lvolOf(given, deletion(false, "b"))).toMatchObject({
        generation: 2n,
        failed: false,
        attempt: 0,
        deleteForced: true,
        deleteRequestedTime,
        actor: "b",
      });
    });

    it("of a tombstone changes nothing", () => {
      const row = lvolRow({ deleteRequestedTime: new Date(0), deleteTime: new Date(0) });
      const given = state({ lvols: new Map([[VOLUME, row]]) });
      expect(lvolOf(given, deletion(true, "b"))).toBe(row);
    });
  });

  it("increments the generation when a host is allowed, and not when it was allowed already", () => {
    const given = state({ lvols: new Map([[VOLUME, lvolRow()]]) });
    const allow: Mutation = {
      kind: "allowHost",
      id: VOLUME,
      host: "nqn.2026-11.io.host:a",
      actor: "test",
      traceparent: undefined,
    };
    expect(lvolOf(given, allow).generation).toBe(2n);
    expect(lvolOf(given, allow).generation).toBe(2n);
    expect(lvolOf(given, { ...allow, kind: "revokeHost" })).toMatchObject({
      generation: 3n,
      hosts: [],
    });
  });

  it("refuses a host beyond the limit, and neither one that is allowed already nor a revocation", () => {
    const hosts = ["a", "b", "c"].map((name) => `nqn.2026-11.io.host:${name}`);
    const given = state({ lvols: new Map([[VOLUME, lvolRow({ hosts })]]) });
    const change = (kind: "allowHost" | "revokeHost", host = "nqn.2026-11.io.host:d"): Mutation => {
      return { kind, id: VOLUME, host, actor: "test", traceparent: undefined };
    };
    const refused = refusal(() => admit(given, change("allowHost")));
    expect(refused).toMatchObject({ reason: "HOST_LIMIT", code: "RESOURCE_EXHAUSTED" });
    expect(refused.details.quota).toEqual([
      { subject: `lvols/${VOLUME}/hosts`, description: "3 hosts, limit 3" },
    ]);
    expect(lvolOf(given, change("allowHost", hosts[0])).hosts).toEqual(hosts);
    expect(lvolOf(given, change("revokeHost", hosts[0])).hosts).toEqual(hosts.slice(1));
    expect(lvolOf(given, change("allowHost")).hosts).toHaveLength(3);
  });
});

describe("hosts of a row that comes from an older database", () => {
  const [KNOWN, OTHER] = ["nqn.2026-11.io.host:known", "nqn.2026-11.io.host:other"];
  const older = lvolRow({
    hosts: [KNOWN, OTHER],
    allowAnyHost: true,
    unconfirmedHosts: [KNOWN, OTHER, ANY_HOST],
  });
  const given = () => state({ lvols: new Map([[older.id, older]]) });
  const confirm = (confirmations: readonly HostConfirmation[]): Mutation => ({
    kind: "confirmHosts",
    id: "node-1",
    confirmations,
    reason: "looked at",
    actor: "operator",
    traceparent: undefined,
  });
  const waiting = (now: AdmissionState) => now.lvols.get(VOLUME)?.unconfirmedHosts;

  it.each([
    [[KNOWN], 1, [OTHER, ANY_HOST]],
    [[ANY_HOST], 1, [KNOWN, OTHER]],
    [[], 3, []],
  ])("ConfirmHosts of %j confirms %i of them", (hosts, confirmed, left) => {
    const now = given();
    const asked = confirm([{ id: VOLUME, hosts }]);
    expect(admit(now, asked)).toEqual({ kind: "hosts", confirmed });
    expect(waiting(now)).toEqual(left);
    expect(now.lvols.get(VOLUME)).toMatchObject({ generation: 2n, actor: "operator" });
    const once = now.lvols.get(VOLUME);
    expect(admit(now, asked)).toEqual({ kind: "hosts", confirmed: 0 });
    expect(now.lvols.get(VOLUME)).toBe(once);
  });

  it.each([
    ["a host that the row does not have", { id: VOLUME, hosts: ["nqn.2026-11.io.host:stranger"] }],
    ["a volume that is not there", { id: uuidV5(VOLUME, "other"), hosts: [] }],
  ])("ConfirmHosts that names %s confirms none", (_what, wrong) => {
    const now = given();
    const refused = refusal(() => admit(now, confirm([{ id: VOLUME, hosts: [] }, wrong])));
    expect(["INVALID_FIELD", "NOT_FOUND"]).toContain(refused.reason);
    expect(now.lvols.get(VOLUME)).toBe(older);
  });

  it("AllowHost confirms the host, RevokeHost removes it", () => {
    const of = { id: VOLUME, actor: "test", traceparent: undefined };
    const now = given();
    lvolOf(now, { ...of, kind: "allowHost", host: KNOWN });
    expect(waiting(now)).toEqual([OTHER, ANY_HOST]);
    const row = lvolOf(now, { ...of, kind: "revokeHost", host: OTHER });
    expect(row).toMatchObject({ hosts: [KNOWN], unconfirmedHosts: [ANY_HOST], generation: 3n });
  });
});
