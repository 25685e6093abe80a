// One bad value among many: what PostgreSQL refuses fails alone.
import { describe, expect, it } from "vitest";
import type { Mutation } from "../../src/model/admission.ts";
import { testDatabase } from "../support/database.ts";
import { creationRequest, DISK, diskRow } from "../support/model.ts";
import { openWriter, provision, rowOf } from "../support/writer.ts";

const NUL = { labels: { app: "a\0" } };
const SURROGATE = { labels: { app: "\ud800" } };
const CONSTRAINT = { request: creationRequest({ sizeBytes: 0n }) };

type Provision = Partial<Extract<Mutation, { kind: "provision" }>>;

describe("a batch of intents", () => {
  it.each<[string, Provision, string]>([
    ["NUL", NUL, "INVALID_FIELD"],
    ["half of a surrogate pair", SURROGATE, "INVALID_FIELD"],
    ["a value that violates a constraint", CONSTRAINT, "INTERNAL"],
  ])("fails for the one with %s only", async (_what, bad, reason) => {
    await using db = await testDatabase();
    await using opened = await openWriter(db.url);
    const { writer, rows } = opened;
    const asked = Array.from({ length: 20 }, (_, index) =>
      writer.mutate(provision(index, index === 13 ? bad : {})),
    );
    const results = await Promise.allSettled(asked);
    for (const [index, result] of results.entries()) {
      if (index === 13) expect(result).toMatchObject({ reason: { name: "Refusal", reason } });
      else expect(result.status).toBe("fulfilled");
    }
    expect(await db.query("select id from lvol")).toHaveLength(19);
    expect(rows.disk(DISK)?.lvolCount).toBe(19);
    expect(writer.connected).toBe(true);
  });
});

describe("a batch of status records", () => {
  it("loses only the one that the database refuses, and its waiter is told", async () => {
    await using db = await testDatabase();
    await using opened = await openWriter(db.url);
    const { writer, rows } = opened;
    const made = await Promise.all([0, 1, 2].map((index) => writer.mutate(provision(index))));
    const [first, bad, third] = made.map(rowOf);
    if (first === undefined || bad === undefined || third === undefined) throw new Error("none");
    const other = diskRow({ id: first.id, serial: "OTHER", admittedSerial: "OTHER" });
    const recorded = [
      writer.recordLvol(first, { lastError: "busy" }),
      writer.recordLvol(bad, { lastError: "a\0" }),
      writer.recordLvol(third, { lastError: "busy" }),
      writer.recordDisk(diskRow(), { stateReason: "noted" }),
      writer.insertDisk(other),
      writer.insertDisk({ ...other, id: third.id, model: "a\0" }),
    ];
    const intent = writer.mutate(provision(3));
    expect(await Promise.all(recorded)).toEqual([true, false, true, true, true, false]);
    expect(rowOf(await intent).id).toBe(provision(3).id);
    expect(rows.lvol(first.id)?.lastError).toBe("busy");
    expect(rows.lvol(bad.id)?.lastError).toBeUndefined();
    expect(rows.disk(DISK)?.stateReason).toBe("noted");
    expect(rows.disk(other.id)?.serial).toBe("OTHER");
    expect(await writer.recordLvol(bad, { lastError: "busy" })).toBe(true);
  });

  it("does not lose a volume that violates a constraint for ever", async () => {
    await using db = await testDatabase();
    await using opened = await openWriter(db.url);
    const { writer, rows } = opened;
    const row = rowOf(await writer.mutate(provision(1)));
    expect(await writer.recordLvol(row, { exported: true })).toBe(false);
    expect(await writer.recordLvol(row, { exported: true, lvolUuid: DISK })).toBe(true);
    expect(rows.lvol(row.id)?.exported).toBe(true);
    expect(writer.queued).toEqual({ intents: 0, records: 0 });
  });
});
