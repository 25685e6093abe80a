// Laws of the volume loops, from any state of the world: their plans converge, a converged world is
// left alone, and nothing is done that must never be done.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { LvolRow, ObservedLvol, ObservedSubsystem } from "../../../src/model/lvol.ts";
import { lvolState } from "../../../src/model/lvol.ts";
import { exportSerial } from "../../../src/model/identity.ts";
import { VOLUME_LOOPS } from "../../../src/reconcile/loops.ts";
import { volumeRecord } from "../../../src/reconcile/lvol/record.ts";
import type { VolumeStep } from "../../../src/reconcile/steps.ts";
import type { VolumePlanView } from "../../../src/reconcile/lvol/view.ts";
import { CLUSTER, LISTENER, lvolRow, STORE_UUID, VOLUME } from "../../support/model.ts";

type Present<T> = Extract<T, { kind: "present" }>;

/** One volume's world: what is really there, what was seen of it, and its row. */
type Scenario = {
  row: LvolRow;
  lvol: Present<ObservedLvol> | undefined;
  subsystem: Present<ObservedSubsystem> | undefined;
  seenLvol: ObservedLvol | undefined;
  seenSubsystem: ObservedSubsystem | undefined;
};

const RUN = "0123456789abcdef";
const UUID = "99999999-0000-4000-8000-000000000009";
const HOSTS = ["nqn.2026-11.io.host:a", "nqn.2026-11.io.host:b"];

function view(scenario: Scenario): VolumePlanView {
  return {
    row: scenario.row,
    observed: { lvol: scenario.seenLvol, subsystem: scenario.seenSubsystem },
    targetConnected: true,
    diskReady: true,
    diskReason: "",
    listenAddresses: [LISTENER],
    now: new Date(),
    inFlight: false,
    clean: true,
    diskDoubtful: false,
    pending: { incarnation: RUN, epoch: 1n, now: new Date(), graceUntil: new Date(0) },
    store: { uuid: STORE_UUID, name: "sn-store", clusterBytes: CLUSTER },
  };
}

const lvol: Present<ObservedLvol> = {
  kind: "present",
  uuid: UUID,
  lvsUuid: STORE_UUID,
  sizeBytes: 12n * 1_048_576n,
  thin: true,
  allocatedClusters: 0n,
};

function act(scenario: Scenario, step: VolumeStep): void {
  switch (step.kind) {
    case "observe-lvol":
      scenario.seenLvol = scenario.lvol ?? { kind: "absent" };
      return;
    case "observe-subsystem":
      scenario.seenSubsystem = scenario.subsystem ?? { kind: "absent" };
      return;
    case "record-lvol":
      scenario.row = { ...scenario.row, ...step.patch };
      return;
    case "create-lvol":
      if (scenario.lvol !== undefined) throw new Error("created twice");
      if (scenario.row.lvolUuid !== undefined) throw new Error("made again what was there once");
      scenario.lvol = { ...lvol, sizeBytes: step.sizeBytes, thin: step.thin };
      scenario.seenLvol = scenario.lvol;
      return;
    case "delete-lvol":
      if (scenario.row.deleteRequestedTime === undefined) throw new Error("deleted unasked");
      if (scenario.subsystem?.namespaces.length) throw new Error("deleted while exported");
      scenario.lvol = undefined;
      scenario.seenLvol = undefined;
      return;
    case "prepare-export":
      scenario.subsystem = {
        kind: "present",
        serialNumber: step.serialNumber,
        allowAnyHost: step.allowAnyHost,
        hosts: step.hosts,
        listeners: step.listeners,
        namespaces: [],
      };
      scenario.seenSubsystem = scenario.subsystem;
      return;
    case "adjust-export": {
      const before = scenario.subsystem;
      if (before === undefined) throw new Error("adjusted what is not there");
      scenario.subsystem = {
        ...before,
        allowAnyHost: step.allowAnyHost ?? before.allowAnyHost,
        hosts: [
          ...before.hosts.filter((host) => !step.removeHosts.includes(host)),
          ...step.addHosts,
        ],
        listeners: [...before.listeners, ...step.addListeners],
      };
      scenario.seenSubsystem = scenario.subsystem;
      return;
    }
    case "add-namespace":
      if (scenario.subsystem === undefined || scenario.lvol === undefined)
        throw new Error("too early");
      scenario.subsystem = {
        ...scenario.subsystem,
        namespaces: [{ nsid: 1, bdevName: step.lvolUuid, uuid: step.uuid }],
      };
      scenario.seenSubsystem = scenario.subsystem;
      return;
    case "delete-subsystem":
      scenario.subsystem = undefined;
      scenario.seenSubsystem = { kind: "absent" };
      return;
  }
}

/** Passes until no loop wants anything; throws if that takes too long. */
function converge(scenario: Scenario): VolumeStep[] {
  const taken: VolumeStep[] = [];
  for (let pass = 0; pass < 12; pass += 1) {
    let busy = false;
    for (const loop of VOLUME_LOOPS) {
      const step = loop.plan(view(scenario));
      if (step === undefined) continue;
      busy = true;
      taken.push(step);
      act(scenario, step);
    }
    const patch = volumeRecord(view(scenario));
    if (patch !== undefined) {
      busy = true;
      scenario.row = { ...scenario.row, ...patch };
    }
    if (!busy) return taken;
  }
  throw new Error("did not converge");
}

const scenario: fc.Arbitrary<Scenario> = fc
  .record({
    hosts: fc.subarray(HOSTS),
    presentHosts: fc.subarray(HOSTS),
    deleting: fc.boolean(),
    recorded: fc.boolean(),
    lvolThere: fc.boolean(),
    subsystemThere: fc.boolean(),
    listening: fc.boolean(),
    attached: fc.boolean(),
    lvolKnown: fc.boolean(),
    subsystemKnown: fc.boolean(),
    anyHost: fc.boolean(),
  })
  .map((is) => {
    const subsystem: Present<ObservedSubsystem> = {
      kind: "present",
      serialNumber: exportSerial(VOLUME),
      allowAnyHost: is.anyHost,
      hosts: is.presentHosts,
      listeners: is.listening ? [LISTENER] : [],
      namespaces: is.attached && is.lvolThere ? [{ nsid: 1, bdevName: UUID, uuid: VOLUME }] : [],
    };
    const there = is.lvolThere ? lvol : undefined;
    const exported = is.subsystemThere ? subsystem : undefined;
    return {
      row: lvolRow({
        hosts: is.hosts,
        lvolUuid: is.recorded ? UUID : undefined,
        deleteRequestedTime: is.deleting ? new Date() : undefined,
        generation: is.deleting ? 2n : 1n,
      }),
      lvol: there,
      subsystem: exported,
      seenLvol: is.lvolKnown ? (there ?? { kind: "absent" }) : undefined,
      seenSubsystem: is.subsystemKnown ? (exported ?? { kind: "absent" }) : undefined,
    };
  });

describe("the volume loops together", () => {
  it("reach what is wanted from any state, and then leave it alone", () => {
    fc.assert(
      fc.property(scenario, (given) => {
        const { row } = given;
        const wasMissing = row.lvolUuid !== undefined && given.lvol === undefined;
        converge(given);
        const state = lvolState(view(given));
        if (row.deleteRequestedTime !== undefined) {
          expect(given).toMatchObject({ lvol: undefined, subsystem: undefined });
          expect(state).toBe("DELETED");
        } else if (wasMissing) {
          expect(state).toBe("DATA_MISSING");
        } else {
          expect(state).toBe("UP");
          expect([...(given.subsystem?.hosts ?? [])].toSorted()).toEqual([...row.hosts]);
          expect(given.row.observedGeneration).toBe(given.row.generation);
        }
        expect(VOLUME_LOOPS.map((loop) => loop.plan(view(given)))).toEqual(
          VOLUME_LOOPS.map(() => undefined),
        );
        expect(volumeRecord(view(given))).toBeUndefined();
      }),
      { numRuns: 2_000 },
    );
  });

  it("take two stages and no look for a volume that was never tried", () => {
    const fresh: Scenario = {
      row: lvolRow({ hosts: [HOSTS[0]!] }),
      lvol: undefined,
      subsystem: undefined,
      seenLvol: { kind: "absent" },
      seenSubsystem: { kind: "absent" },
    };
    expect(converge(fresh).map(({ kind }) => kind)).toEqual([
      "create-lvol",
      "prepare-export",
      "add-namespace",
    ]);
  });

  it("leave a subsystem under our name alone when its serial is not ours", () => {
    const taken: Scenario = {
      row: lvolRow({ lvolUuid: UUID }),
      lvol,
      subsystem: undefined,
      seenLvol: lvol,
      seenSubsystem: {
        kind: "present",
        serialNumber: "SOMEBODYS",
        allowAnyHost: false,
        hosts: [],
        listeners: [LISTENER],
        namespaces: [],
      },
    };
    expect(VOLUME_LOOPS.flatMap((loop) => loop.plan(view(taken)) ?? [])).toEqual([]);
  });
});
