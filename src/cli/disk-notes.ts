// What stands beside a disk in a table: what is unusual of it, and why it is not UP.
import type { Disk } from "../gen/storagenode/v1/disk.ts";
import type { DiskHealth } from "../gen/storagenode/v1/node.ts";

/** copied: what is known of its free space is that of the local copy, and is not told. */
export function diskNotes(
  { spec, status }: Disk,
  { reason, copied = false }: { readonly reason: string; readonly copied?: boolean },
): string {
  const isUp = status?.state === "DISK_STATE_UP";
  const low = status?.conditions.find(({ type }) => type === "SpaceLow");
  const isDirty = !copied && status?.lvstore?.freeSpace === "FREE_SPACE_UNKNOWN";
  const notes = [
    healthWord(status?.health),
    spec?.cordoned === true ? "cordoned" : "",
    isUp && low !== undefined ? `space ${low.reason.toLowerCase()}` : "",
    isUp && isDirty ? zeroingText(status) : "",
    status?.locate === "LOCATE_STATE_ON" ? "LED on" : "",
    isUp ? "" : reason,
  ];
  return notes.filter((note) => note !== "").join(", ");
}

function healthWord(health: DiskHealth | undefined): string {
  switch (health?.state) {
    case "DISK_HEALTH_STATE_FAILED":
      return `health failed (${health.reasons.join(", ")})`;
    case "DISK_HEALTH_STATE_DEGRADED":
      return `health degraded (${health.reasons.join(", ")})`;
    default:
      return "";
  }
}

function zeroingText(status: Disk["status"]): string {
  const { zeroedBytes = 0n, totalBytes = 0n } = status?.zeroing ?? {};
  if (totalBytes === 0n) return "free space not zeroed";
  return `zeroing free space: ${(zeroedBytes * 100n) / totalBytes} %`;
}
