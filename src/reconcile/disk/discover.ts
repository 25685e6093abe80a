// Admission by policy, as the loop `disk-discover` decides it, and what evidence is looked for with. Pure.
import { type Config } from "../../config.ts";
import { isAllowed, type FabricDisk } from "../../config-disks.ts";
import type { DiskRow } from "../../model/disk.ts";
import { blank, type Evidence } from "../../model/evidence.ts";
import type { InspectOptions } from "../../sysfs/disk-evidence.ts";

/**
 * Whether the policy `auto` admits a disk: it is on the allow list, and every look since the agent
 * started was blank, for as long as the settings say.
 */
export function admittedByPolicy(
  config: Pick<Config, "diskPolicy" | "diskAllow" | "diskSettleMs">,
  row: DiskRow,
  facts: {
    readonly evidence: readonly Evidence[] | undefined;
    /** For how long every look was blank; undefined: one was not. */
    readonly cleanForMs: number | undefined;
    readonly fabric: FabricDisk | undefined;
  },
): boolean {
  if (row.wanted !== "take" || row.wipe !== undefined) return false;
  if (row.admitted) return !assertedAs(row, facts.fabric);
  if (config.diskPolicy !== "auto") return false;
  // An entry of STORAGE_NODE_FABRIC_DISKS names the disk by serial: it takes the place of both.
  if (facts.fabric !== undefined) return facts.fabric.format;
  if (facts.evidence === undefined || !blank(facts.evidence)) return false;
  if (facts.cleanForMs === undefined || facts.cleanForMs < config.diskSettleMs) return false;
  return isAllowed(config.diskAllow, row);
}

/** Whether the row says of discards what the entry says, if that says anything. */
export function assertedAs(row: DiskRow, entry: FabricDisk | undefined): boolean {
  return entry?.discardZeroes === undefined || entry.discardZeroes === row.discardZeroes;
}

/** What evidence is gathered with: the allow list, where there is one. */
export function inspectOptions({
  diskAllow,
}: Pick<Config, "diskAllow">): InspectOptions | undefined {
  return diskAllow.length === 0 ? undefined : { allowed: (disk) => isAllowed(diskAllow, disk) };
}
