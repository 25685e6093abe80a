// Reads the lvols of the target as they are found, with who exports them.
import type { FoundLvol, FoundSubsystem } from "../../model/found-lvol.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import type { Lvol } from "../../spdk/replies-lvol.ts";
import { observedLvol } from "./observed.ts";

type Reads = Pick<SpdkClient, "getBdev" | "nvmfGetSubsystems">;

/** lvols: as listed, of one store or of all. One that is gone by now is left out. */
export async function foundLvols(
  spdk: Reads,
  listed: Promise<readonly Lvol[]>,
): Promise<{
  readonly lvols: readonly FoundLvol[];
  readonly subsystems: readonly FoundSubsystem[];
}> {
  const [lvols, subsystems] = await Promise.all([listed, spdk.nvmfGetSubsystems()]);
  const exporting = new Map(
    subsystems.flatMap((subsystem) =>
      subsystem.namespaces.map(({ bdevName }) => [bdevName, subsystem] as const),
    ),
  );
  const bdevs = await Promise.all(lvols.map(({ uuid }) => spdk.getBdev(uuid)));
  return {
    subsystems: subsystems.filter(({ subtype }) => subtype === "NVMe"),
    lvols: lvols.flatMap(({ name, uuid, store }, index) => {
      const bdev = bdevs[index];
      if (bdev?.kind !== "lvol") return [];
      const { thin, snapshot } = bdev.lvol;
      const { sizeBytes, limits, parent, allocatedClusters } = observedLvol(bdev);
      const subsystem = exporting.get(uuid);
      const facts = { sizeBytes, thin, snapshot, parent, limits, subsystem, allocatedClusters };
      return [{ name, uuid, storeUuid: store.uuid, ...facts }];
    }),
  };
}
