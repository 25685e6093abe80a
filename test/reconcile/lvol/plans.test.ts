// Laws of the volume loops, from any state of the world: their plans converge, a converged volume is left
// alone, and no step is taken that must never be (those laws are in `act`, and hold in each of these).
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  confirmedHosts,
  ANY_HOST,
  NO_LIMITS,
  type ListenAddress,
} from "../../../src/model/lvol.ts";
import { lvolConditions, lvolState } from "../../../src/model/lvol-state.ts";
import { realLimits } from "../../../src/model/qos.ts";
import { VOLUME_LOOPS } from "../../../src/reconcile/loops.ts";
import { CLUSTER, LISTENER, VOLUME } from "../../support/model.ts";
import {
  converge,
  HOSTS,
  isIn,
  LVOL,
  NOW,
  OLD,
  SECOND,
  view,
  type World,
} from "../../support/volume-world.ts";
import { LIMITS, worldOf, worlds, type Parts } from "../../support/volume-worlds.ts";

const holds = (given: fc.Arbitrary<Parts>, law: (world: World) => void) =>
  fc.assert(
    fc.property(given, (parts) => law(worldOf(parts))),
    { numRuns: 2_000 },
  );

const addressesOf = (addresses: readonly ListenAddress[]) =>
  addresses.map(({ traddr }) => traddr).toSorted();

const warningsOf = (world: World) =>
  lvolConditions(view(world))
    .slice(5)
    .map(({ type }) => type);

/** What the target lets in and where it listens is what is wanted, apart from what it refuses. */
function expectAsWanted(world: World): void {
  const { row, target, refusedHosts, refusedAddresses, listenAddresses } = world;
  const wanted = confirmedHosts(row);
  expect(lvolState(view(world))).toBe("UP");
  expect(target.lvol?.sizeBytes).toBeGreaterThanOrEqual(row.promisedBytes);
  if (!world.refusesQos) expect(target.lvol?.limits).toEqual(realLimits(row.qos));
  expect(row.pendingOp).toBeUndefined();
  expect(target.subsystem?.allowAnyHost).toBe(wanted.allowAnyHost);
  expect(target.subsystem?.hosts.toSorted()).toEqual(
    wanted.hosts.filter((host) => !refusedHosts.includes(host)),
  );
  expect(addressesOf(target.subsystem?.listeners ?? [])).toEqual(
    addressesOf(listenAddresses.filter((address) => !isIn(refusedAddresses, address))),
  );
  expect(row.observedGeneration).toBe(row.generation);
}

/** Only what the target refuses is tried again, and its subsystem read after each attempt. */
function expectLeftAlone(world: World): void {
  const { subsystem, lvol } = world.target;
  const allowed = new Set(["observe-subsystem", ...[...world.failures.keys()].map(kindOf)]);
  const again = converge(world).map(({ kind }) => kind);
  expect(again.filter((kind) => world.failures.size === 0 || !allowed.has(kind))).toEqual([]);
  expect(world.target).toMatchObject({ subsystem, lvol });
}

const kindOf = (key: string) => key.replace(/^[^/]*\//, "").replace(/ .*/, "");

const KEPT = { deleting: fc.constant(false) } as const;
/** Its data is there, or was never made. */
const WHOLE = { recorded: fc.constant(true), lvolThere: fc.constant(true) } as const;
const UNFORCED = { deleting: fc.constant(true), forced: fc.constant(false) } as const;

describe("the volume loops together", () => {
  it("reach the intent from any state, and then leave it alone", () => {
    holds(worlds(), (world) => {
      const { row, target } = world;
      const wasMissing = row.lvolUuid !== undefined && target.lvol === undefined;
      converge(world);
      if (row.deleteRequestedTime !== undefined) {
        expect(target).toMatchObject({ lvol: undefined, subsystem: undefined });
        expect(lvolState(view(world))).toBe("DELETED");
      } else if (wasMissing) {
        expect(lvolState(view(world))).toBe("DATA_MISSING");
      } else {
        expectAsWanted(world);
        expect(target.lvol?.name).toBe(VOLUME);
        expect(world.unsafe).toBe(false);
        expect(warningsOf(world)).toEqual([]);
      }
      expectLeftAlone(world);
    });
  });

  it("need four steps and no read for a new volume, which becomes reachable last", () => {
    const fresh = {
      ...KEPT,
      recorded: fc.constant(false),
      lvolThere: fc.constant(false),
      lvolKnown: fc.constant(true),
      storeLoaded: fc.constant(true),
      subsystemThere: fc.constant(false),
      subsystemKnown: fc.constant(true),
      stale: fc.constant(false),
      answerLost: fc.constant(false),
      listenAddresses: fc.constant<ListenAddress[]>([LISTENER]),
      slow: fc.constant<boolean[]>([false]),
      qos: fc.constant(undefined),
    };
    holds(worlds(fresh), (world) => {
      expect(converge(world).map(({ kind }) => kind)).toEqual([
        "create-lvol",
        "prepare-export",
        "add-namespace",
        "add-listener",
      ]);
    });
  });

  it("make no lvol for a row of an older database, and take the one that was made since", () => {
    const older = { ...KEPT, recorded: fc.constant(false), maybeMade: fc.constant(true) };
    holds(worlds(older), (world) => {
      const { lvol } = world.target;
      const steps = converge(world).map(({ kind }) => kind);
      expect(world.target.lvol?.uuid).toBe(lvol?.uuid);
      expect(steps).not.toContain("create-lvol");
      if (lvol !== undefined) expectAsWanted(world);
      else {
        expect(lvolState(view(world))).toBe("FAILED");
        expect(steps).not.toContain("prepare-export");
      }
      expectLeftAlone(world);
    });
  });

  it("plan nothing for a subsystem with another serial number", () => {
    const there = { subsystemThere: fc.constant(true), wantedClusters: fc.constant(3n) };
    holds(worlds({ ...KEPT, ...WHOLE, ...there }), (world) => {
      const { target, observed } = world;
      const { subsystem } = target;
      if (subsystem === undefined) return;
      target.subsystem = { ...subsystem, serialNumber: "FOREIGN" };
      observed.setSubsystem(VOLUME, target.subsystem);
      observed.setLvol(VOLUME, LVOL);
      expect(VOLUME_LOOPS.flatMap(({ plan }) => plan(view(world)) ?? [])).toEqual([]);
    });
  });

  it("do not change the export of a volume whose hosts are unknown", () => {
    holds(worlds({ ...KEPT, ...WHOLE, unconfirmed: fc.constant(true) }), (world) => {
      const { subsystem } = world.target;
      const kinds = new Set(converge(world).map(({ kind }) => kind));
      expect([...kinds].filter((kind) => !/^observe-|-lvol$/.test(kind))).toEqual([]);
      expect(world.target.subsystem).toEqual(subsystem);
    });
  });
});

describe("the parts of an export", () => {
  it("are not kept away by a host that the target refuses", () => {
    const refusing = { refusedHosts: fc.subarray(HOSTS, { minLength: 1 }) };
    holds(worlds({ ...KEPT, ...WHOLE, ...refusing }), (world) => {
      const { row, refusedHosts } = world;
      converge(world);
      expectAsWanted(world);
      const refused = row.hosts.filter((host) => refusedHosts.includes(host));
      const conditions = lvolConditions(view(world));
      const warning = conditions.find(({ type }) => type === "HostRefused");
      expect(warning === undefined).toBe(refused.length === 0);
      for (const host of refused) {
        expect(world.row.failures[`export/allow-host ${host}`]?.message).toBe("refused");
        expect(warning?.message).toContain(host);
      }
      expect(Object.keys(world.row.failures)).toHaveLength(refused.length);
      expectLeftAlone(world);
    });
  });

  it("are not kept away by an address that the target refuses", () => {
    const refusing = {
      listenAddresses: fc.constant<ListenAddress[]>([LISTENER, SECOND]),
      refusedAddresses: fc.constantFrom<ListenAddress[][]>([LISTENER], [SECOND]),
    };
    holds(worlds({ ...KEPT, ...WHOLE, ...refusing }), (world) => {
      const [refused] = world.refusedAddresses;
      converge(world);
      expectAsWanted(world);
      const key = `export/add-listener TCP ${refused?.traddr}:4420`;
      expect(Object.keys(world.row.failures)).toEqual([key]);
      expect(warningsOf(world)).toEqual(["ListenerMissing"]);
      expectLeftAlone(world);
    });
  });

  it("stay reachable at the old address while every new one is refused", () => {
    const refusing = {
      attached: fc.constant(true),
      storeLoaded: fc.constant(true),
      subsystemThere: fc.constant(true),
      presentListeners: fc.constant<ListenAddress[]>([OLD]),
      refusedAddresses: fc.constant<ListenAddress[]>([LISTENER, SECOND]),
    };
    holds(worlds({ ...KEPT, ...WHOLE, ...refusing }), (world) => {
      converge(world);
      expect(addressesOf(world.target.subsystem?.listeners ?? [])).toEqual([OLD.traddr]);
      expect(lvolState(view(world))).not.toBe("UP");
      expect(world.row.observedGeneration).not.toBe(world.row.generation);
      expectLeftAlone(world);
    });
  });

  it("never let in a host that is not confirmed", () => {
    const unconfirmedHosts = fc.subarray([...HOSTS, ANY_HOST], { minLength: 1 });
    holds(worlds({ ...KEPT, ...WHOLE, unconfirmedHosts }), (world) => {
      const { unconfirmedHosts } = world.row;
      converge(world);
      expectAsWanted(world);
      const { hosts = [], allowAnyHost } = world.target.subsystem ?? {};
      expect(hosts.filter((host) => unconfirmedHosts.includes(host))).toEqual([]);
      if (unconfirmedHosts.includes(ANY_HOST)) expect(allowAnyHost).toBe(false);
      expect(warningsOf(world)).toEqual(unconfirmedHosts.length > 0 ? ["HostsUnconfirmed"] : []);
    });
  });

  it("are mended if they listened without the namespace: first, and before anything is attached", () => {
    const unsafe = {
      subsystemThere: fc.constant(true),
      attached: fc.constant(false),
      presentListeners: fc.subarray([LISTENER, SECOND, OLD], { minLength: 1 }),
      answerLost: fc.constant(false),
    } as const;
    holds(worlds({ ...KEPT, ...WHOLE, ...unsafe }), (world) => {
      const there = world.target.subsystem?.listeners.length;
      const kinds = converge(world).map(({ kind }) => kind);
      const removed = kinds.filter((kind) => kind === "remove-listener");
      expect(removed).toHaveLength(there ?? 0);
      expect(kinds.lastIndexOf("remove-listener")).toBeLessThan(kinds.indexOf("add-namespace"));
      expect(kinds.indexOf("add-namespace")).toBeLessThan(kinds.indexOf("add-listener"));
      expectAsWanted(world);
    });
  });
});

describe("the size of a volume", () => {
  const larger = { wantedClusters: fc.constant(5n), presentClusters: fc.constant(3n) } as const;
  const lost = { answerLost: fc.constant(false) } as const;

  it("grows once a note of it is in the row, and is never made smaller", () => {
    holds(worlds({ ...KEPT, ...WHOLE, ...lost, ...larger }), (world) => {
      const kinds = converge(world).map(({ kind }) => kind);
      expect(kinds.filter((kind) => kind === "resize-lvol")).toHaveLength(1);
      expectAsWanted(world);
      expect(world.target.lvol?.sizeBytes).toBe(5n * CLUSTER);
    });
  });

  it("is left alone where the lvol is larger than wanted", () => {
    const grownByOthers = { wantedClusters: fc.constant(3n), presentClusters: fc.constant(7n) };
    holds(worlds({ ...KEPT, ...WHOLE, ...grownByOthers }), (world) => {
      const kinds = converge(world).map(({ kind }) => kind);
      expect(kinds).not.toContain("resize-lvol");
      expectAsWanted(world);
      expect(world.target.lvol?.sizeBytes).toBe(7n * CLUSTER);
    });
  });

  it("is tried for again while there is no room, and the volume stays exported", () => {
    holds(worlds({ ...KEPT, ...WHOLE, ...lost, ...larger, noRoom: fc.constant(true) }), (world) => {
      converge(world);
      expect(["RESIZING", "CREATING"]).toContain(lvolState(view(world)));
      expect(world.row.failed).toBe(false);
      const size = lvolConditions(view(world)).find(({ type }) => type === "SizeReached");
      expect(size).toMatchObject({ status: "FALSE", reason: "NoSpace" });
      expect(addressesOf(world.target.subsystem?.listeners ?? [])).not.toEqual([]);
      expect(world.row.observedGeneration).not.toBe(world.row.generation);
    });
  });

  it("takes no clusters that may hold old bytes", () => {
    holds(worlds({ ...KEPT, ...WHOLE, ...lost, ...larger }), (world) => {
      const planned = VOLUME_LOOPS.flatMap(({ plan }) => {
        world.freeSpace = "UNKNOWN";
        return plan(view(world)) ?? [];
      });
      const kinds = planned.map(({ kind }) => kind);
      expect(kinds.filter((kind) => kind === "resize-lvol" || kind === "record-lvol")).toEqual([]);
    });
  });

  it("does not change before an earlier agent's resize can no longer be running", () => {
    const running = { pendingResize: fc.constant("over") } as const;
    holds(worlds({ ...KEPT, ...WHOLE, ...lost, ...larger, ...running }), (world) => {
      world.graceUntil = new Date(NOW.getTime() + 1);
      const planned = VOLUME_LOOPS.flatMap(({ plan }) => plan(view(world)) ?? []);
      const kinds = planned.map(({ kind }) => kind);
      expect(kinds.filter((kind) => kind === "resize-lvol" || kind === "record-lvol")).toEqual([]);
    });
  });
});

describe("limits that the target refuses", () => {
  it("keep no host away, and are a condition of a volume that is UP", () => {
    const refused = {
      qos: fc.constant(LIMITS),
      presentLimits: fc.constant(NO_LIMITS),
      refusesQos: fc.constant(true),
    };
    holds(worlds({ ...KEPT, ...WHOLE, ...refused }), (world) => {
      converge(world);
      expectAsWanted(world);
      expect(warningsOf(world)).toEqual(["QosRefused"]);
      expect(Object.keys(world.row.failures)).toEqual(["export/set-qos qos"]);
      expectLeftAlone(world);
    });
  });
});

describe("an unforced deletion", () => {
  it("keeps or restores the export until it is known that no host is about to come back", () => {
    const restarted = {
      exported: fc.constant(true),
      unexported: fc.constant(false),
      connectedRecorded: fc.constantFrom("before", "never"),
      returning: fc.subarray(HOSTS, { minLength: 1 }),
      hosts: fc.constant(HOSTS),
      presentHosts: fc.constant(HOSTS),
      storeLoaded: fc.constant(true),
      subsystemThere: fc.constant(false),
    } as const;
    holds(worlds({ ...UNFORCED, ...WHOLE, ...restarted }), (world) => {
      expect(view(world).restoreUntilUnexported).toBe(true);
      const kinds = converge(world).map(({ kind }) => kind);
      const order = [
        "prepare-export",
        "add-namespace",
        "add-listener",
        "end-export",
        "delete-lvol",
      ];
      const first = order.map((kind) => kinds.findIndex((one) => one === kind));
      expect(first).not.toContain(-1);
      expect(first).toEqual(first.toSorted((a, b) => a - b));
      expect(lvolState(view(world))).toBe("DELETED");
    });
  });

  it("restores no export whose end was recorded", () => {
    const ended = { subsystemThere: fc.constant(false), unexported: fc.constant(true) } as const;
    holds(worlds({ ...UNFORCED, ...WHOLE, ...ended }), (world) => {
      const kinds = converge(world).map(({ kind }) => kind);
      expect(kinds).not.toContain("prepare-export");
      expect(lvolState(view(world))).toBe("DELETED");
    });
  });
});

describe("a forced deletion", () => {
  it("restores nothing and waits for no host", () => {
    const forced = { deleting: fc.constant(true), forced: fc.constant(true) } as const;
    holds(worlds(forced), (world) => {
      const kinds = converge(world).map(({ kind }) => kind);
      expect(kinds).not.toContain("prepare-export");
      expect(kinds.filter((kind) => kind === "add-listener")).toEqual([]);
      expect(lvolState(view(world))).toBe("DELETED");
    });
  });
});
