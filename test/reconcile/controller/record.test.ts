// What of a controller is recorded while it is between two drivers.
import { describe, expect, it } from "vitest";
import { controllerRecord } from "../../../src/reconcile/controller/record.ts";
import type { ControllerView } from "../../../src/reconcile/controller/view.ts";
import { START, taken, viewOf } from "../../support/controller-view.ts";

describe("the driver that a controller is taken from", () => {
  const prepared = { row: taken, now: START, driver: "nvme" };
  const mounted = [{ kind: "MOUNTED", subject: "S/1", detail: "at /data" }] as const;

  it("is kept while the claim goes on, also if the last scan of the kernel is older than the claim", () => {
    expect(controllerRecord(viewOf(prepared))).not.toHaveProperty("originalDriver");
    // What was found on a disk is forgotten with the claim, before the next scan shows the new driver.
    const forgotten = viewOf({ ...prepared, evidence: undefined });
    expect(controllerRecord(forgotten)).not.toHaveProperty("originalDriver");
    const moving = { ...viewOf({ ...prepared, evidence: mounted }), inFlight: true };
    expect(controllerRecord(moving)).not.toHaveProperty("originalDriver");
  });

  it("is forgotten once the kernel has it back and something forbids another claim", () => {
    const back = controllerRecord(viewOf({ ...prepared, evidence: mounted }));
    expect(back).toMatchObject({ originalDriver: undefined, members: [] });
    expect(back).toHaveProperty("originalDriver");
  });
});

describe("the request to look at a function that was found on vfio-pci", () => {
  const asked = { ...taken, inspectRequestedTime: START };
  const ends = (row: typeof asked, change: Partial<ControllerView> = {}) => {
    const patch = controllerRecord({ ...viewOf({ row, now: START }), ...change }) ?? {};
    return "inspectRequestedTime" in patch && patch.inspectRequestedTime === undefined;
  };

  it("stays while it is handed back, and while a look for a disk of ours has it attached", () => {
    expect(ends(asked)).toBe(false);
    const found = { ...asked, originalDriver: undefined, members: [] };
    expect(ends(found, viewOf({ row: found, now: START, attached: true }))).toBe(false);
  });

  it("ends once the agent has it, alone in SPDK or claimed with others that it would keep away", () => {
    expect(ends(asked, viewOf({ row: asked, now: START, attached: true }))).toBe(true);
    expect(ends({ ...asked, members: [asked.id, "0000:02:00.0"] })).toBe(true);
  });
});
