// What of a controller is recorded while it is between two drivers.
import { describe, expect, it } from "vitest";
import { controllerRecord } from "../../../src/reconcile/controller/record.ts";
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
