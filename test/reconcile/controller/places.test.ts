// Where a disk is: what counts is which drive was read at a function, never the address in the row of the disk.
import { describe, expect, it } from "vitest";
import { newControllerRow } from "../../../src/model/controller.ts";
import { diskId } from "../../../src/model/identity.ts";
import {
  conflictOf,
  expectedAt,
  type Sighting,
  type Where,
} from "../../../src/reconcile/controller/places.ts";
import type { NvmeFunction } from "../../../src/sysfs/nvme.ts";
import { diskRow } from "../../support/model.ts";

const NOW = new Date("2026-11-26T00:00:00Z");
const [FIRST, SECOND] = ["0000:01:00.0", "0000:02:00.0"] as const;
const IDENTITY = { serial: "S", model: "M", nsid: 1 };

const disk = (address: string) =>
  diskRow({ ...IDENTITY, id: diskId(IDENTITY), transport: "PCIe", address });

/** On vfio-pci: nobody can look at what is there. */
const hidden = (pciAddress: string): NvmeFunction => ({
  pciAddress,
  driver: "vfio-pci",
  driverOverride: "vfio-pci",
  iommuGroup: pciAddress,
  groupFunctions: [],
  controllers: [],
});

const holds = (id: string, serial: string) => ({
  ...newControllerRow("node-1", { id, serial, model: "M" }, NOW),
  originalDriver: "nvme",
});

const nothingSeen = { byDisk: new Map(), withoutSerial: [] };

/** The kernel shows a disk with its identity at the second function. */
const sighting: Sighting = {
  address: SECOND,
  namespace: {
    ...IDENTITY,
    kernelName: "nvme1n1",
    device: "/dev/nvme1n1",
    dev: "259:1",
    nguid: undefined,
    eui64: undefined,
    sizeBytes: 1n,
    blockSizeBytes: 512,
    partitions: [],
    holders: [],
    transport: "PCIe",
    address: SECOND,
    controllers: ["nvme1"],
  },
};

const double = { byDisk: new Map([[diskId(IDENTITY), [sighting]]]), withoutSerial: [] };

describe("a disk that nobody can look at", () => {
  it("is expected where its drive was read last, wherever its row says that it was", () => {
    const where: Where = {
      sightings: nothingSeen,
      functions: [hidden(FIRST), hidden(SECOND)],
      controllers: [holds(FIRST, "S"), holds(SECOND, "OTHER")],
      onTarget: undefined,
    };
    for (const address of [FIRST, SECOND, "0000:09:00.0"]) {
      expect(expectedAt(where, disk(address)).map(({ id }) => id)).toEqual([FIRST]);
    }
  });

  it("is nowhere once another drive was read in its place", () => {
    const where = { functions: [hidden(FIRST)], controllers: [holds(FIRST, "OTHER")] };
    expect(expectedAt(where, disk(FIRST))).toEqual([]);
  });

  it("is in conflict with a double that the kernel shows, also if its row has the place of that", () => {
    const where: Where = {
      sightings: double,
      functions: [hidden(FIRST)],
      controllers: [holds(FIRST, "S")],
      onTarget: undefined,
    };
    for (const address of [FIRST, SECOND]) {
      expect(conflictOf(where, disk(address))).toContain(`is seen at ${FIRST} and ${SECOND}`);
    }
  });
});
