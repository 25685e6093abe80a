// The list of orphans is made once for all that ask while nothing changes, and never out of date.
import pino from "pino";
import { describe, expect, it } from "vitest";
import { Orphans } from "../../../src/reconcile/target/orphans.ts";
import type { Subsystem } from "../../../src/spdk/replies-nvmf.ts";
import { Rows } from "../../../src/store/rows.ts";
import { lvolRow } from "../../support/model.ts";

const PREFIX = "nqn.2026-11.io.test";
const [A, B] = ["aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000001"];
const nqnOf = (id: string) => `${PREFIX}:${id}`;

/** A target that has subsystems with these NQNs. */
function scenario(nqns: readonly string[]) {
  const rows = new Rows();
  const onTarget = new Set(nqns);
  const orphans = new Orphans({
    rows,
    fleet: "test",
    nqnPrefix: PREFIX,
    log: pino({ enabled: false }),
    returned: { ofDeleted: () => Promise.resolve(new Set<string>()) },
    isStoreLoaded: () => true,
    spdk: {
      getBdev: () => Promise.resolve(undefined),
      getSubsystem: (nqn) => Promise.resolve(onTarget.has(nqn) ? subsystem(nqn) : undefined),
    },
  });
  const names = () => orphans.list().map(({ name }) => name);
  return { rows, onTarget, orphans, names };
}

function subsystem(nqn: string): Subsystem {
  return {
    nqn,
    subtype: "NVMe",
    allowAnyHost: false,
    hosts: [],
    serialNumber: "",
    modelNumber: "",
    listenAddresses: [],
    namespaces: [],
    maxNamespaces: undefined,
    dmrsl: undefined,
  };
}

describe("the list of orphans", () => {
  it("is the same one until something that it was made from changes", async () => {
    const { orphans } = scenario([nqnOf(A)]);
    await orphans.readSubsystems([nqnOf(A)]);
    expect(orphans.list()).toHaveLength(1);
    expect(orphans.list()).toBe(orphans.list());
  });

  it("has what was read since it was made, and not what was gone by then", async () => {
    const { orphans, onTarget, names } = scenario([nqnOf(A)]);
    expect(names()).toEqual([]);
    await orphans.readSubsystems([nqnOf(A)]);
    expect(names()).toEqual([nqnOf(A)]);
    onTarget.add(nqnOf(B));
    onTarget.delete(nqnOf(A));
    await orphans.readSubsystems([nqnOf(A), nqnOf(B)]);
    expect(names()).toEqual([nqnOf(B)]);
    orphans.beginProcess();
    expect(names()).toEqual([]);
  });

  it("has none that a row has named since it was made, and has it again without that row", async () => {
    const { orphans, rows, names } = scenario([nqnOf(A)]);
    await orphans.readSubsystems([nqnOf(A)]);
    expect(names()).toEqual([nqnOf(A)]);
    rows.apply({ lvols: [lvolRow({ id: A, nqn: nqnOf(A) })] });
    expect(names()).toEqual([]);
    rows.apply({ compacted: [A] });
    expect(names()).toEqual([nqnOf(A)]);
  });
});
