// The state of a volume: what it needs to be UP, and the warnings about single parts, which are listed only
// while they hold and do not change the state.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { addressText } from "../../src/model/address.ts";
import { allowHostKey, listenKey } from "../../src/model/export-parts.ts";
import { lvolConditions, lvolState, type VolumeView } from "../../src/model/lvol-state.ts";
import { HOST, LVOL, lvolFacts, SUBSYSTEM, volumeRow } from "../support/explain-facts.ts";
import { LISTENER, MIB, observedVolume } from "../support/model.ts";

const SECOND = { ...LISTENER, traddr: "127.0.0.2" };
const OTHER = { ...LISTENER, traddr: "127.0.0.9" };
const BOTH = [LISTENER, SECOND];
const failure = { attempt: 1, message: "refused", nextTryTime: new Date(0) };

const viewOf = (change: Partial<VolumeView> = {}) => lvolFacts({ view: change }).view;
const withSubsystem = (change: Partial<typeof SUBSYSTEM>) =>
  observedVolume({ lvol: LVOL, subsystem: { ...SUBSYSTEM, ...change } });

const NEEDS = ["TargetConnected", "DiskReady", "LvolCreated", "SizeReached", "Exported"];
const warningsOf = (view: VolumeView) => lvolConditions(view).slice(NEEDS.length);
const unmetOf = (view: VolumeView) =>
  lvolConditions(view)
    .slice(0, NEEDS.length)
    .filter(({ status }) => status !== "TRUE")
    .map(({ type, reason }) => `${type}: ${reason}`);

describe("a volume is UP", () => {
  it("with its lvol, its namespace and one of the wanted listeners", () => {
    expect(lvolConditions(viewOf()).map(({ type }) => type)).toEqual(NEEDS);
    for (const listeners of [[LISTENER], [SECOND], BOTH, [OTHER, SECOND]]) {
      const observed = withSubsystem({ listeners });
      expect(lvolState(viewOf({ observed, listenAddresses: BOTH }))).toBe("UP");
    }
  });

  it("whoever may or may not connect", () => {
    const hosts = [HOST, "nqn.2026-11.io.host:b"];
    const row = volumeRow({ hosts, unconfirmedHosts: [HOST] });
    const observed = withSubsystem({ hosts: [] });
    const failures = { [allowHostKey("nqn.2026-11.io.host:b")]: failure };
    expect(lvolState(viewOf({ row, observed, failures }))).toBe("UP");
  });
});

describe("a volume that was UP is DEGRADED", () => {
  it.each([
    ["without a listener", { observed: withSubsystem({ listeners: [] }) }, "Exported: NoListener"],
    [
      "with listeners at other addresses only",
      { observed: withSubsystem({ listeners: [OTHER] }), listenAddresses: BOTH },
      "Exported: NoListener",
    ],
    [
      "without its namespace",
      { observed: withSubsystem({ namespaces: [] }) },
      "Exported: NoNamespace",
    ],
    [
      "without its subsystem",
      { observed: observedVolume({ lvol: LVOL, subsystem: { kind: "absent" } }) },
      "Exported: NOT_CREATED",
    ],
    ["without its disk", { diskReady: false, diskReason: "pulled" }, "DiskReady: DiskNotUp"],
    ["without the target", { targetConnected: false }, "TargetConnected: TargetDown"],
  ] as const)("%s", (_, change, unmet) => {
    const view = viewOf(change);
    expect(lvolState(view)).toBe("DEGRADED");
    expect(unmetOf(view)).toEqual([unmet]);
    expect(lvolState({ ...view, row: volumeRow({ exported: false }) })).toBe("CREATING");
  });
});

describe("a volume is", () => {
  const absent = { kind: "absent" } as const;
  const now = new Date(0);
  it.each([
    ["RESIZING", { row: volumeRow({ promisedBytes: 16n * MIB }) }],
    ["DATA_MISSING", { observed: observedVolume({ lvol: absent, subsystem: SUBSYSTEM }) }],
    ["FAILED", { row: volumeRow({ failed: true }) }],
    ["DELETING", { row: volumeRow({ deleteRequestedTime: now, failed: true }) }],
    ["DELETED", { row: volumeRow({ deleteRequestedTime: now, deleteTime: now }) }],
    ["CREATING", { row: volumeRow({ lvolUuid: undefined }) }],
  ] as const)("%s", (state, change) => {
    expect(lvolState(viewOf(change))).toBe(state);
  });
});

describe("a volume whose lvol is gone", () => {
  const observed = observedVolume({ lvol: { kind: "absent" }, subsystem: { kind: "absent" } });
  const createdOf = (row: VolumeView["row"]) =>
    lvolConditions(viewOf({ row, observed })).find(({ type }) => type === "LvolCreated");

  it("has lost it, unless it was asked to be deleted", () => {
    const asked = { deleteRequestedTime: new Date(0) };
    expect(createdOf(volumeRow())).toMatchObject({ status: "FALSE", reason: "DataMissing" });
    for (const row of [volumeRow(asked), volumeRow({ ...asked, deleteTime: new Date(0) })]) {
      expect(createdOf(row)).toMatchObject({ status: "FALSE", reason: "Deleted" });
    }
  });
});

describe("a warning", () => {
  it("names each address that the target refuses to listen on, while nothing listens there", () => {
    const failures = { [listenKey(LISTENER)]: failure, [listenKey(SECOND)]: failure };
    const view = viewOf({ failures, listenAddresses: BOTH });
    expect(warningsOf(view)).toEqual([
      {
        type: "ListenerMissing",
        status: "TRUE",
        reason: "Refused",
        message: `${addressText(SECOND)}: refused`,
      },
    ]);
    const observed = withSubsystem({ listeners: BOTH });
    expect(warningsOf({ ...view, observed })).toEqual([]);
    expect(warningsOf({ ...view, listenAddresses: [LISTENER] })).toEqual([]);
  });

  it("names no address that was not tried yet", () => {
    expect(warningsOf(viewOf({ listenAddresses: BOTH }))).toEqual([]);
  });

  it("names each host that the target refuses, while it is wanted", () => {
    const failures = { [allowHostKey("nqn.x")]: failure };
    const row = volumeRow({ hosts: [HOST, "nqn.x"] });
    const found = warningsOf(viewOf({ failures, row }));
    expect(found).toMatchObject([{ type: "HostRefused", message: "nqn.x: refused" }]);
    expect(warningsOf(viewOf({ failures }))).toEqual([]);
  });

  it("names the hosts that are not confirmed", () => {
    const found = warningsOf(viewOf({ row: volumeRow({ unconfirmedHosts: [HOST] }) }));
    expect(found).toMatchObject([{ type: "HostsUnconfirmed", status: "TRUE" }]);
    expect(found[0]?.message).toContain(HOST);
  });

  it("names the request whose answer was lost, and since when", () => {
    const outcomeUnknown = {
      method: "nvmf_subsystem_add_host",
      since: new Date(0),
      of: "subsystem",
    } as const;
    expect(warningsOf(viewOf({ outcomeUnknown }))).toMatchObject([
      {
        type: "OutcomeUnknown",
        message: "nvmf_subsystem_add_host was sent and not answered since 1970-01-01T00:00:00.000Z",
      },
    ]);
  });
});

describe("any volume", () => {
  it("has the five needs first, the same state with and without warnings, and each warning once", () => {
    const any = fc.record({
      listeners: fc.subarray([LISTENER, SECOND, OTHER]),
      wanted: fc.subarray(BOTH, { minLength: 1 }),
      failed: fc.subarray([...BOTH.map(listenKey), allowHostKey(HOST), "export/observe-subsystem"]),
      unconfirmedHosts: fc.subarray([HOST]),
      lost: fc.boolean(),
      exported: fc.boolean(),
    });
    fc.assert(
      fc.property(any, ({ listeners, wanted, failed, unconfirmedHosts, lost, exported }) => {
        const quiet = viewOf({
          row: volumeRow({ exported }),
          observed: withSubsystem({ listeners }),
          listenAddresses: wanted,
        });
        const view: VolumeView = {
          ...quiet,
          row: { ...quiet.row, unconfirmedHosts },
          failures: Object.fromEntries(failed.map((key) => [key, failure])),
          outcomeUnknown: lost ? { method: "m", since: new Date(0), of: "subsystem" } : undefined,
        };
        const reachable = wanted.some((address) => listeners.includes(address));
        expect(lvolState(view)).toBe(reachable ? "UP" : exported ? "DEGRADED" : "CREATING");
        expect(lvolState(quiet)).toBe(lvolState(view));
        const types = lvolConditions(view).map(({ type }) => type);
        expect(types.slice(0, NEEDS.length)).toEqual(NEEDS);
        expect(new Set(types).size).toBe(types.length);
        expect(warningsOf(quiet)).toEqual([]);
      }),
    );
  });
});
