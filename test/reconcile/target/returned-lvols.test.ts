// Which lvols without a row are of deleted volumes: what was found out holds until a row has the lvol.
import pino from "pino";
import { describe, expect, it } from "vitest";
import { storeName } from "../../../src/model/identity.ts";
import { ReturnedLvols } from "../../../src/reconcile/target/returned-lvols.ts";
import { Rows } from "../../../src/store/rows.ts";
import type { Tombstone, UnknownLvol } from "../../../src/store/tombstones.ts";
import { snapshotView } from "../../support/explain-facts.ts";
import { DISK, FLEET, lvolRow, NODE, VOLUME } from "../../support/model.ts";

const UUID = "eeeeeeee-0000-4000-8000-000000000001";
const NODE_ROW = { nodeId: NODE, cordoned: false, revision: 1n, targetProcess: undefined };
const LVOL = { uuid: UUID, store: storeName(FLEET, DISK), name: VOLUME, relatives: [] };

/** With a database whose tombstones are given; it answers once `answer` resolves. */
function scenario() {
  const rows = new Rows();
  const tombstones: Tombstone[] = [];
  const asked: (readonly UnknownLvol[])[] = [];
  const database = { answer: Promise.resolve() };
  const returned = new ReturnedLvols({
    rows,
    writeMode: () => "read-write",
    log: pino({ enabled: false }),
    onRestored: () => {},
    writer: {
      findTombstones: async (lvols) => {
        asked.push(lvols);
        const found = [...tombstones];
        await database.answer;
        return found;
      },
      restoreTombstones: () => Promise.resolve(true),
    },
  });
  const compact = (id: string) => {
    rows.apply({ compacted: [id] });
    tombstones.push({ id, diskId: DISK, lvolUuid: UUID });
  };
  const isOfDeleted = async () => (await returned.ofDeleted([LVOL])).has(UUID);
  return { rows, database, asked, returned, compact, isOfDeleted };
}

type Scenario = ReturnType<typeof scenario>;

/** The rows are read, which others have written. */
const read = ({ rows }: Scenario) =>
  rows.replace({
    node: NODE_ROW,
    disks: [],
    controllers: [],
    snapshots: [],
    lvols: [ofVolume()],
  });

/** How a volume or a snapshot comes to have the lvol. */
const WAYS: readonly (readonly [string, (on: Scenario) => void])[] = [
  ["a volume that was adopted", ({ rows }) => rows.apply({ lvols: [ofVolume({ adopted: true })] })],
  ["a volume whose row was rebuilt", (on) => read(on)],
  [
    "a volume whose lvol was made",
    ({ rows }) => {
      rows.apply({ lvols: [ofVolume({ lvolUuid: undefined })] });
      rows.apply({ lvols: [ofVolume()] });
    },
  ],
  ["a snapshot", ({ rows }) => rows.apply({ snapshots: [ofSnapshot()] })],
];

const ofVolume = (change = {}) => lvolRow({ id: VOLUME, lvolUuid: UUID, ...change });
const ofSnapshot = () => snapshotView({ id: VOLUME, lvolUuid: UUID }).row;

describe("an lvol without a row", () => {
  it("is looked up once, while nothing is known of it but that", async () => {
    const { asked, isOfDeleted } = scenario();
    expect(await isOfDeleted()).toBe(false);
    expect(await isOfDeleted()).toBe(false);
    expect(asked).toHaveLength(1);
  });

  it.each(WAYS)("is of a deleted one if it was meanwhile of %s", async (_what, comes) => {
    const on = scenario();
    expect(await on.isOfDeleted()).toBe(false);
    comes(on);
    on.compact(VOLUME);
    expect(await on.returned.isOfDeleted(LVOL)).toBe(true);
    expect(await on.isOfDeleted()).toBe(true);
  });

  it("is looked up again if it got its row while it was looked up", async () => {
    const on = scenario();
    const answer = Promise.withResolvers<void>();
    on.database.answer = answer.promise;
    const first = on.isOfDeleted();
    read(on);
    answer.resolve();
    expect(await first).toBe(false);
    on.compact(VOLUME);
    expect(await on.isOfDeleted()).toBe(true);
  });
});
