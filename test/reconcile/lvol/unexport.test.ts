// When the export of a volume that is being deleted may end: not before it is known that no host is
// connected or about to come back.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { StepFailures } from "../../../src/model/failure.ts";
import type { LvolRow, ObservedVolume } from "../../../src/model/lvol.ts";
import { unexport } from "../../../src/reconcile/lvol/unexport.ts";
import { LISTENER, lvolRow, observedVolume } from "../../support/model.ts";

const NOW = new Date("2026-11-26T00:00:00Z");
const RUN = "run";
const GRACE_MS = 30_000;
const HOST = "nqn.2026-11.io.host:a";
const UUID = "99999999-0000-4000-8000-000000000009";
const MAY_END = { restoreUntilUnexported: false, unexportDue: undefined };

/** Deletion was asked for, unforced, of an export of which nothing is known in this incarnation. */
const deletedRow = (change: Partial<LvolRow> = {}) =>
  lvolRow({ lvolUuid: UUID, exported: true, deleteRequestedTime: NOW, ...change });

/** It has been listening for that long. */
const listeningFor = (ms: number): Partial<ObservedVolume> => ({
  listeningSinceMs: performance.now() - ms,
});

const of = (row: LvolRow, observed: Partial<ObservedVolume> = {}, failures: StepFailures = {}) =>
  unexport(row, observedVolume(observed), {
    incarnation: RUN,
    reconnectGraceMs: GRACE_MS,
    listenAddresses: [LISTENER],
    failures,
    releasing: false,
    now: NOW,
    monotonicMs: performance.now(),
  });

describe("the export of a volume that is being deleted", () => {
  it("is restored after a restart of the target, and for as long as nothing listens", () => {
    expect(of(deletedRow())).toMatchObject({
      restoreUntilUnexported: true,
      unexportDue: undefined,
    });
  });

  it("is kept until hosts had time to come back since it listens, and may end then", () => {
    const { restoreUntilUnexported, unexportDue } = of(deletedRow(), listeningFor(10_000));
    expect(restoreUntilUnexported).toBe(true);
    const leftMs = (unexportDue?.getTime() ?? 0) - NOW.getTime();
    expect(leftMs).toBeGreaterThan(15_000);
    expect(leftMs).toBeLessThanOrEqual(20_000);
    expect(of(deletedRow(), listeningFor(GRACE_MS))).toMatchObject(MAY_END);
  });

  it("may end at once where nobody was connected in this incarnation", () => {
    const connected = { connectedHosts: [], connectedIncarnation: RUN };
    expect(of(deletedRow(connected))).toMatchObject(MAY_END);
  });

  it.each([
    ["nobody was connected in an earlier incarnation", [], "earlier"],
    ["a host was connected in an earlier incarnation", [HOST], "earlier"],
    ["a host is connected in this incarnation", [HOST], RUN],
    ["it was never asked who is connected", undefined, undefined],
  ] as const)("is kept where %s", (_, connectedHosts, connectedIncarnation) => {
    const row = deletedRow({ connectedHosts, connectedIncarnation });
    expect(of(row).restoreUntilUnexported).toBe(true);
    expect(of(row, listeningFor(1_000)).restoreUntilUnexported).toBe(true);
  });

  it.each([
    ["no deletion was asked for", { deleteRequestedTime: undefined }],
    ["the deletion is forced", { deleteForced: true }],
    ["it was never exported", { exported: false }],
    ["the end of its export was recorded", { unexportedTime: NOW }],
    ["its hosts are unknown", { unconfirmed: true }],
  ] as const)("is not restored where %s", (_, change) => {
    expect(of(deletedRow(change))).toMatchObject(MAY_END);
    expect(of(deletedRow(change), listeningFor(1_000))).toMatchObject(MAY_END);
  });

  it("is not restored once this agent ended it, though that is not committed yet", () => {
    expect(of(deletedRow(), { subsystem: { kind: "absent" }, exportEnded: true })).toMatchObject(
      MAY_END,
    );
  });

  it("is not restored where the lvol is lost", () => {
    expect(of(deletedRow(), { lvol: { kind: "absent" } })).toMatchObject(MAY_END);
  });

  it("ends by time only while it listens, at a time in the future", () => {
    const row = fc.record({
      exported: fc.boolean(),
      deleteForced: fc.boolean(),
      unexportedTime: fc.constantFrom(undefined, NOW),
      deleteRequestedTime: fc.constantFrom(undefined, NOW),
      connectedHosts: fc.constantFrom(undefined, [], [HOST]),
      connectedIncarnation: fc.constantFrom(undefined, RUN, "earlier"),
    });
    const listening = fc.option(fc.integer({ min: 0, max: 2 * GRACE_MS }), { nil: undefined });
    fc.assert(
      fc.property(row, listening, (change, ms) => {
        const said = of(deletedRow(change), ms === undefined ? {} : listeningFor(ms));
        if (said.unexportDue === undefined) return;
        expect(said.restoreUntilUnexported).toBe(true);
        expect(ms).toBeDefined();
        expect(said.unexportDue.getTime()).toBeGreaterThanOrEqual(NOW.getTime());
      }),
    );
  });
});
