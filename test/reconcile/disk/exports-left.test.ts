// What else on the controller of a disk on a fabric keeps it attached.
import { describe, expect, it } from "vitest";
import type { DiskRow } from "../../../src/model/disk.ts";
import { disksOn, usedOnFabricWith } from "../../../src/reconcile/disk/exports-left.ts";
import { Observed } from "../../../src/reconcile/target/observed.ts";
import { Rows } from "../../../src/store/rows.ts";
import { diskRow, DISK, lvolRow, VOLUME } from "../../support/model.ts";

const OTHER = DISK.replace("6", "7");
const CONTROLLER = "sn-0123456789a";

/** Two namespaces of one controller; the second one as given, with one volume. */
function world(change: Partial<DiskRow>, exported: boolean) {
  const rows = new Rows();
  const disks = [diskRow({ nsid: 1 }), diskRow({ id: OTHER, serial: "S", nsid: 2, ...change })];
  rows.apply({ disks, lvols: [lvolRow({ diskId: OTHER })] });
  const observed = new Observed(() => {});
  observed.beginIncarnation("run", { earlierMayRun: false, discardGuard: "subsystem" });
  for (const { id, serial, model, nsid, sizeBytes, blockSize } of disks) {
    const shown = { serial, model, nsid, sizeBytes, blockSize, bdevName: `${CONTROLLER}n${nsid}` };
    observed.setDisk(id, { ...shown, controllerName: CONTROLLER, store: undefined });
  }
  if (!exported) observed.setSubsystem(VOLUME, { kind: "absent" });
  return { rows, observed };
}

const usedIn = (source: ReturnType<typeof world>) =>
  usedOnFabricWith(source, { id: DISK }, CONTROLLER);

describe("the other disks of a controller on a fabric", () => {
  it("are all that are attached under its name", () => {
    const source = world({}, false);
    expect(disksOn(source, CONTROLLER).map(({ id }) => id)).toEqual([DISK, OTHER]);
    expect(disksOn(source, "another")).toEqual([]);
  });

  it("are in use with a store, and once they are to be released while they are exported", () => {
    expect(usedIn(world({}, false))).toEqual(["S/2"]);
    expect(usedIn(world({ lvsUuid: undefined }, false))).toEqual([]);
    expect(usedIn(world({ wanted: "release" }, true))).toEqual(["S/2"]);
    expect(usedIn(world({ wanted: "release" }, false))).toEqual([]);
  });
});
