// What else on the controller of a disk on a fabric keeps it attached.
import { describe, expect, it } from "vitest";
import type { FabricDisk } from "../../../src/config-disks.ts";
import type { DiskRow } from "../../../src/model/disk.ts";
import { controllerName } from "../../../src/model/identity.ts";
import { disksOn, usedOnFabric } from "../../../src/reconcile/disk/fabric-use.ts";
import type { FoundDisk } from "../../../src/reconcile/target/disks-on-target.ts";
import { Observed } from "../../../src/reconcile/target/observed.ts";
import { Rows } from "../../../src/store/rows.ts";
import { diskRow, DISK, lvolRow, VOLUME } from "../../support/model.ts";

const OTHER = DISK.replace("6", "7");
const AT = { trtype: "TCP", traddr: "192.0.2.1", trsvcid: "4420", subnqn: "nqn.test:two" } as const;
const CONTROLLER = controllerName(AT);

const entry = (nsid: number): FabricDisk => {
  return { serial: "S", nsid, ...AT, format: true, discardZeroes: undefined };
};

/** Two namespaces of one controller; the second one as given, with one volume. */
function world(change: Partial<DiskRow>, exported: boolean) {
  const rows = new Rows();
  const disks = [
    diskRow({ nsid: 1, transport: "TCP" }),
    diskRow({ id: OTHER, serial: "S", nsid: 2, transport: "TCP", ...change }),
  ];
  rows.apply({ disks, lvols: [lvolRow({ diskId: OTHER })] });
  const observed = new Observed(() => {});
  observed.beginIncarnation("run", { earlierMayRun: false, discardGuard: "subsystem" });
  for (const { id, serial, model, nsid, sizeBytes, blockSize } of disks) {
    const shown = { serial, model, nsid, sizeBytes, blockSize, bdevName: `${CONTROLLER}n${nsid}` };
    observed.setDisk(id, { ...shown, controllerName: CONTROLLER, store: undefined });
  }
  if (!exported) observed.setSubsystem(VOLUME, { kind: "absent" });
  const config = { fabricDisks: [entry(1), entry(2)] };
  return { config, rows, observed };
}

/** The second one, as it is found on the target. */
function found2({ observed }: ReturnType<typeof world>): FoundDisk {
  const shown = observed.disk(OTHER);
  if (shown === undefined) throw new Error("not observed");
  return { ...shown, id: OTHER, nsid: 2, trtype: "TCP", address: "192.0.2.1:4420" };
}

const usedIn = (source: ReturnType<typeof world>) =>
  usedOnFabric(source, CONTROLLER, { besides: [DISK] });

describe("the other disks of a controller on a fabric", () => {
  it("are all that are attached under its name", () => {
    const source = world({}, false);
    expect(disksOn(source, CONTROLLER).map(({ id }) => id)).toEqual([DISK, OTHER]);
    expect(disksOn(source, "another")).toEqual([]);
  });

  it("are in use until they are to be released, and then while they are exported", () => {
    expect(usedIn(world({}, false))).toEqual(["S/2"]);
    // It would be attached again at once.
    expect(usedIn(world({ lvsUuid: undefined }, false))).toEqual(["S/2"]);
    expect(usedIn(world({ wanted: "release" }, true))).toEqual(["S/2"]);
    expect(usedIn(world({ wanted: "release" }, false))).toEqual([]);
  });

  it("are there before they were attached, and while they have no row", () => {
    const source = world({}, false);
    const found = found2(source);
    source.observed.setDisk(OTHER, undefined);
    expect(usedIn(source)).toEqual(["S/2"]);
    const unknown = { ...source, rows: new Rows() };
    const about = { besides: [DISK], found: [found] };
    expect(usedOnFabric(unknown, CONTROLLER, about)).toEqual(["S/2"]);
    expect(usedOnFabric(unknown, "another", about)).toEqual([]);
    const unconfigured = { ...unknown, config: { fabricDisks: [] } };
    expect(usedOnFabric(unconfigured, CONTROLLER, about)).toEqual([]);
  });
});
