// Where disks are: which function shows a disk in the kernel, has it on the target, or holds it since it
// was taken. A disk that is at two places, or shows another identifier than before, is in conflict. Pure.
import { hasDrive, type ControllerRow } from "../../model/controller.ts";
import type { DiskRow } from "../../model/disk.ts";
import { diskId } from "../../model/identity.ts";
import type { NvmeFunction, NvmeNamespace, NvmeTopology } from "../../sysfs/nvme.ts";

/** A namespace that the kernel's driver shows. */
export type Sighting = { readonly address: string; readonly namespace: NvmeNamespace };

export type Sightings = {
  /** By disk id; of a namespace that several functions reach, one for each. */
  readonly byDisk: ReadonlyMap<string, readonly Sighting[]>;
  /** Kernel names of disks without a serial number: they have no identity and are ignored. */
  readonly withoutSerial: readonly string[];
};

export const NOTHING_SEEN: Sightings = { byDisk: new Map(), withoutSerial: [] };

export function sightingsOf({ functions }: NvmeTopology): Sightings {
  const byDisk = new Map<string, Sighting[]>();
  const withoutSerial: string[] = [];
  for (const { pciAddress: address, controllers } of functions) {
    for (const namespace of controllers.flatMap((controller) => controller.namespaces)) {
      const { serial, model, nsid, kernelName } = namespace;
      if (serial === "" || nsid < 1) {
        withoutSerial.push(kernelName);
        continue;
      }
      const id = diskId({ serial, model, nsid });
      byDisk.set(id, [...(byDisk.get(id) ?? []), { address, namespace }]);
    }
  }
  return { byDisk, withoutSerial };
}

/** Everything that says where a disk may be. */
export type Where = {
  readonly sightings: Sightings;
  readonly functions: readonly NvmeFunction[];
  readonly controllers: readonly ControllerRow[];
  /** Address of its controller on the target; undefined: it is not attached. */
  readonly onTarget: string | undefined;
};

/** Functions that nobody can look at, and that had the drive of the disk when it was last read. */
export function expectedAt(
  { functions, controllers }: Pick<Where, "functions" | "controllers">,
  disk: DiskRow,
): readonly ControllerRow[] {
  const hidden = functions.filter(({ controllers: shown }) => shown.length === 0);
  const addresses = new Set(hidden.map(({ pciAddress }) => pciAddress));
  const known = controllers.filter((row) => addresses.has(row.id) && hasDrive(row, disk));
  const isTaken = ({ originalDriver }: ControllerRow) => Number(originalDriver !== undefined);
  return known.toSorted((a, b) => isTaken(b) - isTaken(a) || (a.id < b.id ? -1 : 1));
}

/** Why the identity of a disk is not certain; undefined: it is. */
export function conflictOf(where: Where, disk: DiskRow): string | undefined {
  const seen = where.sightings.byDisk.get(disk.id) ?? [];
  const other = seen.find(({ namespace }) => isOther(namespace, disk));
  if (other !== undefined) {
    return `the disk at ${other.address} shows another NGUID or EUI64 than ${disk.id} had`;
  }
  const places = new Map<string, string>();
  // Two ways to one namespace have one block device; two disks have two.
  for (const { address, namespace } of seen) places.set(namespace.kernelName, address);
  const held = holder(where, disk);
  if (held !== undefined) places.set("held", held);
  if (places.size < 2) return undefined;
  const at = [...new Set(places.values())].toSorted().join(" and ");
  return `serial ${disk.serial}, model ${disk.model}, nsid ${disk.nsid} is seen at ${at}`;
}

/** As conflictOf, of a disk that is not on the target, by what one listing of the kernel shows. */
export function conflictIn(
  topology: NvmeTopology,
  rows: { readonly controllers: () => Iterable<ControllerRow> },
  disk: DiskRow,
): string | undefined {
  const { functions } = topology;
  const controllers = [...rows.controllers()];
  const sightings = sightingsOf(topology);
  return conflictOf({ sightings, functions, controllers, onTarget: undefined }, disk);
}

/** Where the agent holds the disk: on the target, or on vfio-pci since it was taken. */
function holder(where: Where, disk: DiskRow): string | undefined {
  if (where.onTarget !== undefined) return where.onTarget;
  return expectedAt(where, disk).find(({ originalDriver }) => originalDriver !== undefined)?.id;
}

function isOther({ nguid, eui64 }: NvmeNamespace, disk: DiskRow): boolean {
  const differ = (a: string | undefined, b: string | undefined) =>
    a !== undefined && b !== undefined && a !== b;
  return differ(nguid, disk.nguid) || differ(eui64, disk.eui64);
}
