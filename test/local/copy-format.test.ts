// The format of the local copy: what a text says wherever its writing was cut off, and what makes it
// useless.
import { describe, expect, it } from "vitest";
import {
  CopyDamaged,
  copyLine,
  parseCopy,
  type CopiedVolume,
  type CopyHeader,
} from "../../src/local/copy-format.ts";
import { NO_LIMITS } from "../../src/model/lvol.ts";
import { copiedDisk, copiedVolume, rowsOf } from "../../src/store/copied-rows.ts";
import { DISK, diskRow, lvolRow, NODE, PREFIX, VOLUME } from "../support/model.ts";

const A = "nqn.2026-11.io.host:a";
const B = "nqn.2026-11.io.host:b";
const OTHER = "99999999-2222-4333-8444-555555555555";

const header = (change: Partial<CopyHeader> = {}): CopyHeader => ({
  version: 1,
  nodeId: NODE,
  fleet: "test",
  nqnPrefix: PREFIX,
  epoch: 3n,
  revision: 2n ** 60n,
  time: new Date("2026-11-02T00:00:00Z"),
  ...change,
});

const volume = (hosts: readonly string[], id = VOLUME): CopiedVolume =>
  copiedVolume(lvolRow({ id, hosts: [...hosts] }));

const LINES = [
  copyLine({ header: header() }),
  copyLine({ disk: copiedDisk(diskRow()) }),
  copyLine({ volume: volume([A, B]) }),
  copyLine({ volume: volume([A], OTHER) }),
  copyLine({ volume: volume([A]) }),
  copyLine({ removed: OTHER }),
  copyLine({ header: header({ hold: "é, an older database" }) }),
];

describe("a local copy", () => {
  it("has the limits of a volume, and takes none for none", () => {
    const qos = { ...NO_LIMITS, rwIops: 2n ** 40n };
    const limited = copiedVolume(lvolRow({ qos }));
    const lines = [copyLine({ header: header() }), copyLine({ volume: limited })];
    const copy = parseCopy(lines.join(""));
    expect(copy?.volumes[0]?.qos).toEqual(qos);
    if (copy === undefined) throw new Error("no copy");
    expect(rowsOf(copy).lvols[0]?.qos).toEqual(qos);
    expect(parseCopy(LINES.join(""))?.volumes[0]?.qos).toBeUndefined();
  });

  it("says of each object what its last line says, in exact numbers", () => {
    const copy = parseCopy(LINES.join(""));
    expect(copy?.header).toEqual(header({ hold: "é, an older database" }));
    expect(copy?.disks.map(({ id }) => id)).toEqual([DISK]);
    expect(copy?.volumes.map(({ id, hosts }) => ({ id, hosts }))).toEqual([
      { id: VOLUME, hosts: [A] },
    ]);
  });

  it("cut off at any byte, says what its complete lines say, and never more", () => {
    const bytes = Buffer.from(LINES.join(""));
    const ends = LINES.map((_, index) => Buffer.byteLength(LINES.slice(0, index + 1).join("")));
    for (let cut = 0; cut <= bytes.length; cut += 1) {
      const complete = ends.filter((end) => end <= cut).length;
      const said = parseCopy(bytes.subarray(0, cut).toString());
      expect(said).toEqual(parseCopy(LINES.slice(0, complete).join("")));
      // Revoked by line 5, deleted by line 6.
      const hosts = said?.volumes.find(({ id }) => id === VOLUME)?.hosts;
      if (cut >= ends[4]!) expect(hosts).toEqual([A]);
      if (cut >= ends[5]!) expect(said?.volumes.map(({ id }) => id)).toEqual([VOLUME]);
      if (cut >= ends[6]!) expect(said?.header.hold).toBeDefined();
    }
  });

  it("ignores an end that was allocated and never written", () => {
    const text = LINES.slice(0, 4).join("");
    expect(parseCopy(text + "\0".repeat(100))).toEqual(parseCopy(text));
  });

  it("says nothing while it is empty", () => {
    expect(parseCopy("")).toBeUndefined();
  });

  it.each([
    ["a line in the middle that cannot be read", [LINES[0], "{\n", LINES[1]]],
    ["a last line that was ended and cannot be read", [LINES[0], `${"\0".repeat(40)}\n`]],
    ["no header first", [LINES[1], LINES[0]]],
    ["a later version", [LINES[0]!.replace('"version":1', '"version":2')]],
    ["what this version does not know", [LINES[0], '{"group":{"id":"a"}}\n']],
    ["a volume without its hosts", [LINES[0], LINES[2]!.replace('"hosts"', '"guests"')]],
  ])("is useless with %s", (_what, lines) => {
    expect(() => parseCopy(lines.join(""))).toThrow(CopyDamaged);
  });
});
