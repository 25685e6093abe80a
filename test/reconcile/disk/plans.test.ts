// Laws of the disk loops, from any state of the world: their plans converge, a converged world is
// left alone, and nothing is taken or formatted that must not be.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { isUse, ownSubjects, refusing, showsUse } from "../../../src/model/disk-claim.ts";
import type { EvidenceKind } from "../../../src/model/evidence.ts";
import {
  RUN,
  converge,
  gaveUp,
  inspect,
  NAME,
  VFIO,
  type Contents,
  type World,
  type WorldStep,
} from "../../support/disk-world.ts";
import { AGAINST, CONTENTS, worldOf, worlds, type Parts } from "../../support/disk-worlds.ts";
import { STORE_UUID } from "../../support/model.ts";

/** Nothing but its contents stands against taking the disk. */
const WANTED = {
  admitted: fc.constant(true),
  wanted: fc.constant("take"),
  against: fc.subarray<EvidenceKind>(["NOT_ALLOWED"]),
  claimedOnce: fc.constant(true),
  pulled: fc.constant(false),
  duplicate: fc.constant(false),
} as const;

/** The whole story: in the write mode it has, and then as the leader, with an intent that is new. */
function live(world: World): readonly WorldStep[] {
  const before = converge(world);
  world.writeMode = "read-write";
  const during = converge(world);
  if (!gaveUp(world)) return [...before, ...during];
  expect(converge(world)).toEqual([]);
  world.row = { ...world.row, generation: world.row.generation + 1n };
  return [...before, ...during, ...converge(world)];
}

const holds = (given: fc.Arbitrary<Parts>, law: (world: World) => void) =>
  fc.assert(
    fc.property(given, (parts) => law(worldOf(parts))),
    { numRuns: 2_000 },
  );

const ZEROING = new Set(["observe-slices", "pin-free-space", "zero-slice"]);

const changesOf = (steps: readonly WorldStep[]) =>
  steps
    .map(({ kind }) => kind)
    .filter((kind) => kind !== "record-disk" && kind !== "record-controller");

// The laws of what must never be done are in `act`, and hold in each of these.
describe("the disk loop", () => {
  it("comes to an end from any state, leaves it alone, and comes to it again after restarts", () => {
    holds(worlds(), (world) => {
      live(world);
      const { row, contents } = world;
      expect(converge(world)).toEqual([]);
      expect(world.row).toEqual(row);
      Object.assign(world, { attached: false, loaded: false, loadEnded: false });
      Object.assign(world, { claimedBlank: false, foundEmpty: false, evidence: undefined });
      Object.assign(world, { targetListed: false, kernelListed: false });
      converge(world);
      expect(world.contents).toBe(contents);
      // Nothing attaches a disk that is not to be taken, or that there is no way back for.
      const noWayBack =
        world.transport === "PCIe" &&
        world.driver !== "nvme" &&
        world.controller.originalDriver === undefined;
      if (!row.admitted || row.wanted === "release" || noWayBack) return;
      // Under the kernel's driver, more is seen of a foreign disk.
      const states = row.state === "FOREIGN" ? ["FOREIGN", "IN_USE"] : [row.state];
      if (world.duplicate) states.push("CONFLICT");
      expect(states).toContain(world.row.state);
    });
  });

  it("does nothing while it may not write, and nothing but attach while the database is away", () => {
    holds(worlds({ writeMode: fc.constantFrom("read-only", "restore-only") }), (world) => {
      const { row, writeMode } = world;
      const kinds = new Set(converge(world).map(({ kind }) => kind));
      kinds.delete("observe-slices");
      if (writeMode === "restore-only") kinds.delete("attach-disk");
      if (writeMode === "restore-only") kinds.delete("attach-controller");
      expect(kinds).toEqual(new Set());
      expect(world.row).toBe(row);
    });
  });

  it("makes a blank disk UP, with a store of its name and zeroed free space", () => {
    const blank = {
      contents: fc.constant(CONTENTS.nothing),
      recorded: fc.constantFrom("nothing", "name"),
      format: fc.constant(true),
    } as const;
    holds(worlds({ ...WANTED, ...blank }), (world) => {
      const steps = live(world);
      const { row, contents } = world;
      expect(row).toMatchObject({ state: "UP", lvsName: NAME, freeSpace: "ZEROED" });
      expect(row.observedGeneration).toBe(row.generation);
      expect(row.pendingOp).toBeUndefined();
      expect(contents).toMatchObject({ store: { name: NAME, uuid: row.lvsUuid } });
      expect(changesOf(steps).filter((kind) => kind === "create-store")).toHaveLength(1);
    });
  });

  it("makes a disk with a store of ours UP, whatever happened to it", () => {
    const contents = fc.constant(CONTENTS.ours);
    const recorded = worlds({ ...WANTED, contents, recorded: fc.constant("uuid") });
    // Not covered: only the name was recorded (the process and its target ended before the uuid was),
    // and then the kernel's driver took the function back, as at a boot. The disk becomes FOREIGN.
    const unrecorded = worlds({
      ...WANTED,
      contents,
      recorded: fc.constant("name"),
      driver: fc.constant(VFIO),
    });
    holds(fc.oneof(recorded, unrecorded), (world) => {
      const steps = live(world);
      expect(world.row).toMatchObject({ state: "UP", lvsUuid: STORE_UUID });
      expect(world.contents).toBe(CONTENTS.ours);
      expect(changesOf(steps)).not.toContain("create-store");
    });
  });

  it("leaves a foreign disk as it is", () => {
    const { otherDisk, otherFleet, otherKind, fileSystem, unknownData } = CONTENTS;
    const stores = worlds({
      ...WANTED,
      contents: fc.constantFrom<Contents[]>(otherDisk, otherFleet, otherKind),
    });
    const copies = worlds({
      ...WANTED,
      contents: fc.constant(CONTENTS.otherUuid),
      recorded: fc.constantFrom("nothing", "uuid"),
    });
    const data = worlds({
      ...WANTED,
      contents: fc.constantFrom<Contents[]>(fileSystem, unknownData),
      recorded: fc.constantFrom("nothing", "name"),
      format: fc.constant(false),
    });
    holds(fc.oneof(stores, copies, data), (world) => {
      const { contents } = world;
      const steps = live(world);
      expect(world.row.state).toBe("FOREIGN");
      expect(world.contents).toBe(contents);
      expect(changesOf(steps)).not.toContain("create-store");
    });
  });

  it("does not format while a store may still be found", () => {
    const stores = Object.values<Contents>(CONTENTS).filter(({ kind }) => kind === "store");
    const loading = {
      transport: fc.constant("TCP"),
      format: fc.constant(true),
      contents: fc.constantFrom(...stores),
      recorded: fc.constantFrom("nothing", "name"),
      attached: fc.constant(true),
      loaded: fc.constant(false),
    } as const;
    holds(worlds({ ...WANTED, ...loading }), (world) => {
      const { contents } = world;
      expect(changesOf(live(world))).not.toContain("create-store");
      expect(world.contents).toBe(contents);
    });
  });

  it("never formats a disk again whose store is gone", () => {
    const { nothing, unknownData, fileSystem } = CONTENTS;
    const gone = {
      contents: fc.constantFrom<Contents[]>(nothing, unknownData, fileSystem),
      recorded: fc.constant("uuid"),
    } as const;
    holds(worlds({ ...WANTED, ...gone }), (world) => {
      const { contents } = world;
      const seenByKernel = world.driver !== VFIO && world.transport === "PCIe";
      const steps = live(world);
      const refused = contents === fileSystem && seenByKernel;
      expect(world.row.state).toBe(refused ? "FOREIGN" : "FAILED");
      expect(world.contents).toBe(contents);
      expect(changesOf(steps)).not.toContain("create-store");
    });
  });

  it("lets a released disk go once its exports have ended, with what is on it", () => {
    const released = {
      wipe: fc.constant("none"),
      wanted: fc.constant("release"),
      claimedOnce: fc.constant(true),
      pulled: fc.constant(false),
      duplicate: fc.constant(false),
    } as const;
    holds(worlds(released), (world) => {
      const { contents } = world;
      const changes = new Set(changesOf(live(world)));
      expect(world).toMatchObject({ attached: false, exportsLeft: 0, contents });
      if (world.transport === "PCIe") expect(world.driver).toBe("nvme");
      const { state, generation, observedGeneration } = world.row;
      expect(state).toBe("RELEASED");
      expect(observedGeneration).toBe(generation);
      for (const kind of ["create-store", "pin-free-space", "claim-controllers", "attach-disk"]) {
        expect(changes).not.toContain(kind);
      }
    });
  });

  it("attaches a disk whose store is to be read, and makes and deletes nothing on it", () => {
    const inspected = {
      wanted: fc.constant("inspect"),
      observed: fc.constant(false),
      transport: fc.constant("PCIe"),
      contents: fc.constantFrom<Contents[]>(...Object.values(CONTENTS)),
      recorded: fc.constant("nothing"),
    } as const;
    holds(worlds({ ...WANTED, ...inspected }), (world) => {
      const { contents } = world;
      const changes = new Set(changesOf(live(world)));
      expect(world.contents).toBe(contents);
      for (const kind of ["create-store", "pin-free-space", "rename-store"]) {
        expect(changes).not.toContain(kind);
      }
      const isStore = contents.kind === "store";
      if (isStore) expect(world).toMatchObject({ attached: true, row: { state: "FOREIGN" } });
      else expect(world).toMatchObject({ attached: false, driver: "nvme" });
    });
  });

  it("makes a disk UP whose store was adopted, under its own name and with its space unknown", () => {
    const { otherDisk, otherFleet, otherKind, ours } = CONTENTS;
    const adopted = {
      adopted: fc.constant(true),
      contents: fc.constantFrom<Contents[]>(otherDisk, otherFleet, otherKind, ours),
      recorded: fc.constant("nothing"),
      zeroesByItself: fc.constant(false),
    } as const;
    holds(worlds({ ...WANTED, ...adopted }), (world) => {
      const changes = new Set(changesOf(live(world)));
      expect(world.row).toMatchObject({ state: "UP", lvsUuid: STORE_UUID, lvsName: NAME });
      expect(world.row.freeSpace).toBe("UNKNOWN");
      expect(world.contents).toMatchObject({ store: { name: NAME, uuid: STORE_UUID } });
      expect(changes).not.toContain("create-store");
    });
  });

  it("takes no disk that is not admitted, and gives back what was taken", () => {
    const [wipe, wanted] = [fc.constant("none" as const), fc.constant("take" as const)];
    const not = worlds({ admitted: fc.constant(false), wanted, wipe });
    holds(not, (world) => {
      const { contents, transport, row, attached } = world;
      const changes = new Set(changesOf(live(world)).filter((kind) => !ZEROING.has(kind)));
      if (transport === "TCP") {
        // A fabric disk is looked at before it is admitted.
        const looks = row.wanted === "take" && !attached;
        expect(changes).toEqual(new Set(looks ? ["attach-disk"] : []));
      } else if (row.lvsUuid === undefined) {
        expect(changes).not.toContain("attach-controller");
        expect(world.attached && world.contents.kind !== "store").toBe(
          world.attached && (world.pulled || world.row.state === "CONFLICT"),
        );
      }
      expect(changes).not.toContain("claim-controllers");
      expect(world).toMatchObject({ contents });
    });
  });

  it("wipes what was asked for, once, and nothing else, and takes no wiped disk by itself", () => {
    const idle = {
      transport: fc.constant("PCIe"),
      admitted: fc.constant(false),
      attached: fc.constant(false),
      driver: fc.constant("nvme"),
      pulled: fc.constant(false),
      duplicate: fc.constant(false),
    } as const;
    const asked = worlds({ ...idle, wipe: fc.constantFrom("asked", "begun", "other") });
    holds(asked, (world) => {
      const { contents, against } = world;
      const wanted = world.row.wipe?.evidence ?? [];
      const steps = changesOf(live(world));
      expect(steps).not.toContain("claim-controllers");
      const wiped = world.row.wipe === undefined && world.row.wipeEnded === undefined;
      const used = inspect({ contents, against }, "claim").some(
        (item) => isUse(item) || item.kind === "UNREADABLE",
      );
      expect(wiped && used).toBe(false);
      if (!wiped) {
        expect(world.contents).toBe(contents);
        return;
      }
      expect(world.contents).toEqual(CONTENTS.nothing);
      expect(world.row).toMatchObject({ lvsUuid: undefined, lvsName: undefined });
      const lost = inspect({ contents, against: [] }, "claim");
      expect(wanted).toEqual(expect.arrayContaining([...lost]));
    });
  });

  it("does not claim a disk with evidence against it", () => {
    const used = {
      transport: fc.constant("PCIe"),
      driver: fc.constantFrom("nvme", undefined),
      attached: fc.constant(false),
      against: fc.subarray([...AGAINST], { minLength: 1 }),
    } as const;
    holds(worlds({ ...WANTED, ...used }), (world) => {
      live(world);
      const shown = showsUse(refusing(inspect(world, "discover"), ownSubjects([world.row])));
      expect(world).toMatchObject({ driver: "nvme", attached: false });
      expect(world.row.state).toBe(shown ? "IN_USE" : "FOREIGN");
    });
  });

  it("takes none of two disks that look the same, and does nothing to one that was pulled", () => {
    const local = { transport: fc.constant("PCIe"), attached: fc.constant(false) } as const;
    const twins = worlds({
      ...local,
      duplicate: fc.constant(true),
      pulled: fc.constant(false),
      driver: fc.constant("nvme"),
    });
    const pulled = worlds({ ...local, pulled: fc.constant(true), duplicate: fc.constant(false) });
    holds(fc.oneof(twins, pulled), (world) => {
      const { driver, contents, duplicate } = world;
      expect(changesOf(live(world))).toEqual([]);
      expect(world).toMatchObject({ driver, attached: false, contents });
      const away = world.row.wanted === "release" ? "RELEASED" : "MISSING";
      expect(world.row.state).toBe(duplicate ? "CONFLICT" : away);
    });
  });

  it("keeps a disk of ours in use whose double appears, and attaches it again where it was", () => {
    const held = {
      transport: fc.constant("PCIe"),
      driver: fc.constant(VFIO),
      duplicate: fc.constant(true),
      contents: fc.constant(CONTENTS.ours),
      recorded: fc.constant("uuid"),
    } as const;
    holds(worlds({ ...WANTED, ...held }), (world) => {
      live(world);
      expect(world).toMatchObject({ driver: VFIO, attached: true, contents: CONTENTS.ours });
      expect(world.row.state).toBe("UP");
    });
  });

  it("does nothing once it gave up, until there is a new intent", () => {
    const failed = { state: fc.constant("FAILED"), observed: fc.constant(true) } as const;
    // The failure of a local disk that is not attached is its controller's, and ends with that.
    const transport = fc.constant("TCP" as const);
    const given = { transport, zeroRequested: fc.constant(false), ...failed };
    holds(worlds(given), (world) => {
      const { row, driver, attached, contents } = world;
      expect(converge(world)).toEqual([]);
      world.writeMode = "read-write";
      expect(converge(world)).toEqual([]);
      expect(world).toMatchObject({ driver, attached, contents });
      expect(world.row.state).toBe(row.state);
    });
  });

  it("zeroes free space when it is asked to, or by itself, and notes what a delete may have left", () => {
    const ours = { contents: fc.constant(CONTENTS.ours), recorded: fc.constant("uuid") } as const;
    holds(worlds({ ...WANTED, ...ours }), (world) => {
      const { freeSpace, zeroRequestedTime, pendingOp } = world.row;
      const cutOff = pendingOp?.op === "zero-free-space" && pendingOp.run !== RUN;
      const { slices } = world;
      const filler = slices.includes("filler");
      const steps = changesOf(live(world));
      // While deletes leave old bytes, it waits.
      const doubtful = cutOff || filler;
      const byItself = world.zeroesByItself && (freeSpace === "UNKNOWN" || doubtful);
      const asked = (zeroRequestedTime !== undefined || byItself) && !world.dirty;
      expect(steps.filter((kind) => kind === "pin-free-space")).toHaveLength(Number(asked));
      expect(world.row.zeroRequestedTime === undefined).toBe(!world.dirty || !zeroRequestedTime);
      const clean = freeSpace === "ZEROED" && !doubtful;
      expect(world.row.freeSpace).toBe((asked || clean) && !world.dirty ? "ZEROED" : "UNKNOWN");
      // What an earlier agent has left over goes in any case.
      expect(world.slices).toEqual([]);
      const zeroed = steps.filter((kind) => kind === "zero-slice").length;
      const fillers = asked && filler ? 1 : 0;
      expect(zeroed).toBe(slices.length - fillers + (asked ? 2 : 0));
    });
  });
});
