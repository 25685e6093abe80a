// When the demo counts the drives of its machine as seen.
import { expect, it } from "vitest";
import { readiness } from "../../src/demo/agent-ready.ts";
import { diskMessage } from "../../src/api/messages.ts";
import { NOT_LOOKED_AT } from "../../src/model/disk.ts";
import { diskRow } from "../support/model.ts";

const NOTHING = { space: undefined, io: undefined, originalDriver: undefined };
const drive = (serial: string) => ({
  serial,
  address: "0000:01:00.0",
  model: "M",
  iommuGroup: "1",
  namespaces: [],
});

function listed(serial: string, reason: string) {
  const row = diskRow({ serial, state: "DISCOVERED" });
  return diskMessage(row, { ready: false, reason, space: undefined }, NOTHING);
}

it("each drive of the machine was looked at; disks of an earlier start do not count", () => {
  const isReady = readiness({ drives: [drive("A"), drive("B")] }, "manual");
  const before = ["C", "D", "E"].map((serial) => listed(serial, "not admitted"));
  expect(isReady(before)).toBe(false);
  const looked = listed("A", "not admitted");
  expect(isReady([...before, looked])).toBe(false);
  expect(isReady([...before, looked, listed("B", NOT_LOOKED_AT)])).toBe(false);
  expect(isReady([...before, looked, listed("B", "not admitted")])).toBe(true);
});

it("waits for no drive that another driver hides", () => {
  const hidden = { ...drive("B"), driver: "vfio-pci" as const };
  const isReady = readiness({ drives: [drive("A"), hidden] }, "manual");
  expect(isReady([listed("A", "not admitted")])).toBe(true);
});
