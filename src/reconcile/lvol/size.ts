import type { LvolRow, ObservedVolume } from "../../model/lvol.ts";

/** Whether the lvol still has to be grown to what is wanted. */
export function isTooSmall(
  { promisedBytes }: Pick<LvolRow, "promisedBytes">,
  { lvol }: Pick<ObservedVolume, "lvol">,
): boolean {
  return lvol?.kind === "present" && lvol.sizeBytes < promisedBytes;
}
