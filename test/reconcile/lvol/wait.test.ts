// What volumes wait for: where no loop plans a step for a volume that is not as wanted, its conditions say
// what stands in the way and what ends it, and nothing of what was met before.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { lvolConditions, lvolState } from "../../../src/model/lvol-state.ts";
import { VOLUME_LOOPS } from "../../../src/reconcile/loops.ts";
import { CLUSTER, DISK } from "../../support/model.ts";
import { converge, NOW, view, type World } from "../../support/volume-world.ts";
import { worldOf, worlds } from "../../support/volume-worlds.ts";

const LATER = new Date(NOW.getTime() + 5_000);

function conditionOf(world: World, type: string) {
  return lvolConditions(view(world)).find((condition) => condition.type === type);
}

const plannedBy = (world: World) =>
  VOLUME_LOOPS.flatMap(({ name, plan }) => (plan(view(world)) === undefined ? [] : [name]));

const NEW = {
  deleting: fc.constant(false),
  recorded: fc.constant(false),
  lvolThere: fc.constant(false),
  maybeMade: fc.constant(false),
} as const;

const anyWorld = fc.record({
  parts: worlds(),
  dirty: fc.boolean(),
  running: fc.boolean(),
});

describe("a volume that waits", () => {
  it("says so in its conditions, whatever keeps its loops from a step", () => {
    fc.assert(
      fc.property(anyWorld, ({ parts, dirty, running }) => {
        const world = worldOf(parts);
        world.freeSpace = dirty ? "UNKNOWN" : "ZEROED";
        world.graceUntil = running ? LATER : NOW;
        converge(world);
        const { wait } = view(world);
        const state = lvolState(view(world));
        if (["UP", "DELETED", "DATA_MISSING", "FAILED"].includes(state)) return;
        const lvolLoops = ["provision", "resize", "lvol-delete"];
        if (plannedBy(world).some((loop) => lvolLoops.includes(loop))) return;
        const unmet = lvolConditions(view(world)).filter(({ status }) => status === "FALSE");
        const vague = unmet.filter(({ reason }) => ["NotCreated", "TooSmall"].includes(reason));
        expect(vague).toEqual([]);
        if (wait === undefined) return;
        expect(conditionOf(world, "Waiting")).toMatchObject({ reason: wait.reason });
        expect(wait.cure).not.toBe("");
      }),
      { numRuns: 500 },
    );
  });

  it("for zeroed free space is not told that its disk is ready, nor what failed before", () => {
    fc.assert(
      fc.property(worlds(NEW), (parts) => {
        const world = worldOf(parts);
        world.freeSpace = "UNKNOWN";
        world.row = { ...world.row, lastError: "connection lost" };
        converge(world);
        const reason = "FREE_SPACE_NOT_ZEROED";
        expect(lvolState(view(world))).toBe("CREATING");
        expect(conditionOf(world, "DiskReady")).toMatchObject({ status: "FALSE", reason });
        const created = conditionOf(world, "LvolCreated");
        expect(created).toMatchObject({ status: "FALSE", reason });
        expect(created?.message).toContain(`ZeroFreeSpace {"diskId": "${DISK}"}`);
        expect(created?.message).not.toContain("connection lost");
      }),
    );
  });

  it("to grow is served meanwhile: its disk is ready, and its size says why it is not reached", () => {
    const smaller = {
      deleting: fc.constant(false),
      recorded: fc.constant(true),
      lvolThere: fc.constant(true),
      wantedClusters: fc.constant(5n),
      presentClusters: fc.constant(3n),
      pendingResize: fc.constant("none"),
    } as const;
    fc.assert(
      fc.property(worlds(smaller), (parts) => {
        const world = worldOf(parts);
        world.freeSpace = "UNKNOWN";
        converge(world);
        expect(conditionOf(world, "DiskReady")).toMatchObject({ status: "TRUE" });
        const size = conditionOf(world, "SizeReached");
        expect(size).toMatchObject({ status: "FALSE", reason: "FREE_SPACE_NOT_ZEROED" });
        expect(size?.message).toContain(`wanted are ${5n * CLUSTER} bytes`);
      }),
    );
  });

  it("for an earlier agent's resize says until when", () => {
    const running = {
      deleting: fc.constant(false),
      recorded: fc.constant(true),
      lvolThere: fc.constant(true),
      wantedClusters: fc.constant(5n),
      presentClusters: fc.constant(3n),
      pendingResize: fc.constant("over"),
    } as const;
    fc.assert(
      fc.property(worlds(running), (parts) => {
        const world = worldOf(parts);
        world.graceUntil = LATER;
        const waiting = conditionOf(world, "Waiting");
        if (view(world).store === undefined || view(world).observed.lvol === undefined) return;
        expect(waiting).toMatchObject({ status: "TRUE", reason: "EARLIER_CHANGE" });
        expect(waiting?.message).toContain(LATER.toISOString());
      }),
    );
  });
});
