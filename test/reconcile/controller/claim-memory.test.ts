import { expect, it } from "vitest";
import { ClaimMemory } from "../../../src/reconcile/controller/claim-memory.ts";
import type { NvmeFunction } from "../../../src/sysfs/nvme.ts";

const SLOT = "0000:01:00.0";
const OTHER = "0000:02:00.0";

function seen(pciAddress: string, driver: string | undefined): NvmeFunction {
  return {
    pciAddress,
    driver,
    driverOverride: undefined,
    iommuGroup: "1",
    groupFunctions: [],
    controllers: [],
  };
}

/** Of two ports. */
function claimed(): ClaimMemory {
  const memory = new ClaimMemory();
  memory.add("d", "blank", [SLOT, OTHER]);
  return memory;
}

const everyOne = () => true;

it("a claim holds while each of its functions is on vfio-pci and taken", () => {
  const both = [seen(SLOT, "vfio-pci"), seen(OTHER, "vfio-pci")];
  const holds = (functions: readonly NvmeFunction[], isTaken = everyOne) => {
    const memory = claimed();
    memory.endUnseen(memory.all(), functions, isTaken);
    return memory.has("d", "blank", SLOT);
  };
  expect(holds(both)).toBe(true);
  expect(holds([seen(SLOT, "vfio-pci"), seen(OTHER, "nvme")])).toBe(false);
  expect(holds([seen(SLOT, "vfio-pci"), seen(OTHER, undefined)])).toBe(false);
  expect(holds([seen(SLOT, "vfio-pci")])).toBe(false);
  expect(holds(both, () => false)).toBe(false);
});

it("a listing that began before a claim does not end it", () => {
  const memory = claimed();
  const before = memory.all();
  memory.add("d", "blank", [SLOT]);
  memory.endUnseen(before, [seen(SLOT, "nvme")], everyOne);
  expect(memory.has("d", "blank", SLOT)).toBe(true);
});

it("what was found says nothing of the same disk elsewhere, nor after the claim has ended", () => {
  const memory = claimed();
  expect(memory.has("d", "empty", SLOT)).toBe(false);
  expect(memory.has("d", "blank", "0000:09:00.0")).toBe(false);
  expect(memory.has("d", "blank", undefined)).toBe(false);
  expect(memory.has("e", "blank", SLOT)).toBe(false);
  memory.end("d");
  expect(memory.has("d", "blank", SLOT)).toBe(false);
});
