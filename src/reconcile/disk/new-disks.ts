// Rows of local disks that have none: those that the kernel shows, and those that only the target has.
import type { Logger } from "pino";
import type { Config } from "../../config.ts";
import { newDiskRow } from "../../model/disk.ts";
import type { WriteMode } from "../../store/fence.ts";
import type { Rows } from "../../store/rows.ts";
import type { Writer } from "../../store/writer.ts";
import type { NvmeFunction } from "../../sysfs/nvme.ts";
import type { Sightings } from "../controller/places.ts";
import type { FoundDisk } from "../target/disks-on-target.ts";
import type { Observed } from "../target/observed.ts";

type Context = {
  readonly config: Pick<Config, "nodeId">;
  readonly rows: Rows;
  readonly writer: Pick<Writer, "insertDisk">;
  readonly observed: Observed;
  readonly log: Logger;
  readonly writeMode: () => WriteMode;
};

const mayInsert = ({ rows, writeMode }: Context) =>
  rows.node !== undefined && writeMode() === "read-write";

/** Of namespaces that the kernel's driver shows. */
export async function insertSeen(context: Context, { byDisk }: Sightings): Promise<void> {
  const { rows, writer, config, log } = context;
  if (!mayInsert(context)) return;
  await Promise.all(
    [...byDisk].map(async ([id, [sighting]]) => {
      if (rows.disk(id) !== undefined || sighting === undefined) return;
      const { address, namespace } = sighting;
      const { serial, model, nsid, sizeBytes, blockSizeBytes: blockSize } = namespace;
      const { kernelName, nguid, eui64 } = namespace;
      const facts = { serial, model, nsid, sizeBytes, blockSize, kernelName, nguid, eui64 };
      const disk = { ...facts, transport: "PCIe", address, driver: "nvme" } as const;
      await writer.insertDisk(newDiskRow(config.nodeId, disk, new Date()));
      log.info({ disk: id, serial, model, address }, "new disk found");
    }),
  );
}

/** Of namespaces on the target, at functions of this machine. */
export async function insertFound(
  context: Context,
  found: readonly FoundDisk[],
  functions: readonly NvmeFunction[],
): Promise<void> {
  const { rows, writer, observed, config, log } = context;
  if (!mayInsert(context)) return;
  const addresses = new Set(functions.map(({ pciAddress }) => pciAddress));
  for (const disk of found) {
    const { id, serial, model, nsid, sizeBytes, blockSize, address, controllerName } = disk;
    if (disk.trtype !== "PCIe" || !addresses.has(address) || rows.disk(id) !== undefined) continue;
    const facts = { serial, model, nsid, sizeBytes, blockSize, address, controllerName };
    await writer.insertDisk(newDiskRow(config.nodeId, { ...facts, transport: "PCIe" }, new Date()));
    log.info({ disk: id, serial, model, address }, "new disk found on the target");
    observed.setDisk(id, disk);
  }
}
