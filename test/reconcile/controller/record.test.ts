// What of a controller is recorded while it is between two drivers.
import { describe, expect, it } from "vitest";
import type { ControllerRow } from "../../../src/model/controller.ts";
import { controllerRecord } from "../../../src/reconcile/controller/record.ts";
import type { ControllerView } from "../../../src/reconcile/controller/view.ts";
import { RUN, START, taken, viewOf } from "../../support/controller-view.ts";

/** As its kernel driver shows a drive with this serial. */
function underKernel(serial: string): Partial<ControllerView> {
  const { inKernel } = viewOf({ row: taken, now: START, driver: "nvme" });
  return { inKernel: inKernel && { ...inKernel, identity: { serial, model: "M" }, namespaces: 1 } };
}

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

  it("ends with the drive that was there", () => {
    const shown = { ...asked, originalDriver: undefined, members: [], driver: "nvme" };
    expect(ends(shown, { inKernel: undefined })).toBe(true);
    expect(ends(shown, underKernel("S"))).toBe(false);
    expect(ends(shown, underKernel("OTHER"))).toBe(true);
    // Nobody could know which drive was asked for.
    expect(ends({ ...asked, driver: "vfio-pci" }, underKernel("OTHER"))).toBe(false);
  });

  it("ends once the agent has it, alone in SPDK or claimed with others that it would keep away", () => {
    expect(ends(asked, viewOf({ row: asked, now: START, attached: true }))).toBe(true);
    expect(ends({ ...asked, members: [asked.id, "0000:02:00.0"] })).toBe(true);
  });
});

describe("the wait after a claim that failed for good", () => {
  const nextTryTime = new Date(START.getTime() + 600_000);
  const setback = { attempt: 1, tries: 5, reason: "refused", run: RUN, nextTryTime };
  const row = { ...taken, setback };
  const at = (serial: string, change: Partial<ControllerRow> = {}) =>
    controllerRecord({
      ...viewOf({ row: { ...row, ...change }, now: START, driver: "nvme" }),
      ...underKernel(serial),
    });

  it("is over for the drive that was put in its place", () => {
    expect(at("S")).not.toHaveProperty("setback");
    expect(at("OTHER")).toMatchObject({ serial: "OTHER", setback: undefined });
    expect(at("OTHER")).toHaveProperty("setback");
    // The first one that is read.
    expect(at("S", { serial: undefined, model: undefined })).not.toHaveProperty("setback");
  });
});
