// How long a controller waits whose claim failed for good: the row alone says so, whichever agent reads it.
import { describe, expect, it } from "vitest";
import { z } from "zod";
import type { ControllerRow } from "../../../src/model/controller.ts";
import type { StepFailures } from "../../../src/model/failure.ts";
import { controllerTake } from "../../../src/reconcile/controller/take.ts";
import { records } from "../../../src/store/columns.ts";
import { parseControllerRows } from "../../../src/store/controller-rows.ts";
import { ATTACH_TRIES, FORMAT_TRIES } from "../../../src/limits.ts";
import { RUN, START, taken, viewOf, type At } from "../../support/controller-view.ts";

const ATTACH = "controller-take/attach-controller";
const MINUTE = 60_000;

const jsonColumns = z.tuple([
  z.looseObject({ setback: z.unknown(), failures: z.unknown(), pending_op: z.unknown() }),
]);

/** As another agent reads it from the database: what is JSON there was JSON in between. */
function readAgain(row: ControllerRow): ControllerRow {
  const [{ setback, failures, pending_op }] = jsonColumns.parse(JSON.parse(records([row])));
  const plain = Object.entries(row).map(([field, value]) => {
    const column = field.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    return [column, value ?? null];
  });
  const columns: object = Object.fromEntries(plain);
  const [read] = parseControllerRows([{ ...columns, setback, failures, pending_op }]);
  if (read === undefined) throw new Error("no row");
  return read;
}

const refusedTimes = (attempt: number): StepFailures => ({
  [ATTACH]: { attempt, message: "answered -19", nextTryTime: START },
});

/** The row after what was planned at that time, if it is only recorded. */
function recorded(at: At): ControllerRow | undefined {
  const step = controllerTake.plan(viewOf(at));
  return step?.kind === "record-controller" ? { ...at.row, ...step.patch } : undefined;
}

const planned = (at: At) => controllerTake.plan(viewOf(at))?.kind;

/** The minutes of each wait in a row. Each is counted by another agent, which knows the row only. */
function waitsOf(count: number): readonly number[] {
  let row = taken;
  let now = START;
  return Array.from({ length: count }, (_, index) => {
    const failed = { ...row, failures: refusedTimes(ATTACH_TRIES + index) };
    const back = recorded({ row: failed, now });
    const next = back?.setback?.nextTryTime;
    if (back === undefined || next === undefined) throw new Error(`not set back at ${index}`);
    row = readAgain(back);
    const just = new Date(next.getTime() - 1);
    expect(planned({ row, now: just })).toBe("release-controllers");
    expect(planned({ row, now: next })).toBe("attach-controller");
    const waited = next.getTime() - now.getTime();
    now = next;
    return waited / MINUTE;
  });
}

describe("a controller whose claim failed for good", () => {
  it("waits for 10 minutes, then twice as long each time, and for 6 hours at most", () => {
    expect(waitsOf(8)).toEqual([10, 20, 40, 80, 160, 320, 360, 360]);
  });

  it("is not set back before so many refusals, nor twice for the same one", () => {
    const row = { ...taken, failures: refusedTimes(ATTACH_TRIES - 1) };
    expect(planned({ row, now: START })).toBe("attach-controller");
    const back = recorded({ row: { ...taken, failures: refusedTimes(ATTACH_TRIES) }, now: START });
    expect(back?.setback).toMatchObject({ attempt: 1, reason: "answered -19", run: RUN });
    const later = new Date(START.getTime() + 10 * MINUTE);
    expect(back && planned({ row: back, now: later })).toBe("attach-controller");
  });

  it("waits no longer than that if the clock was set back meanwhile", () => {
    const row = recorded({ row: { ...taken, failures: refusedTimes(ATTACH_TRIES) }, now: START });
    if (row === undefined) throw new Error("not set back");
    const at = (minutes: number) =>
      planned({ row, now: new Date(START.getTime() - minutes * MINUTE) });
    expect(at(0)).toBe("release-controllers");
    expect(at(60)).toBe("attach-controller");
  });

  it("is tried at once by another incarnation of the target, and waits longer if that refuses, too", () => {
    const first = recorded({ row: { ...taken, failures: refusedTimes(ATTACH_TRIES) }, now: START });
    if (first === undefined) throw new Error("not set back");
    const pendingOp = { ...taken.pendingOp, run: "another", op: "attach", epoch: 7n } as const;
    const other = { ...readAgain(first), pendingOp: { since: START, failed: false, ...pendingOp } };
    expect(planned({ row: other, now: START, run: "another" })).toBe("attach-controller");
    const again = { ...other, failures: refusedTimes(ATTACH_TRIES + 1) };
    const { setback } = recorded({ row: again, now: START, run: "another" }) ?? {};
    expect(setback?.nextTryTime).toEqual(new Date(START.getTime() + 20 * MINUTE));
  });

  it("waits as long if its disks are what the target refuses to format", () => {
    const at = { row: taken, now: START, attached: true };
    expect(planned({ ...at, formats: FORMAT_TRIES - 1 })).toBeUndefined();
    const back = recorded({ ...at, formats: FORMAT_TRIES });
    expect(back?.setback?.nextTryTime).toEqual(new Date(START.getTime() + 10 * MINUTE));
  });
});
