// Formats disks as text: a table of all, and one of them with what is known of it.
import type { Disk, DiskStatus } from "../gen/storagenode/v1/disk.ts";
import { formatBytes } from "../model/bytes.ts";
import { labelled, table } from "./client/text.ts";
import { diskNotes } from "./disk-notes.ts";

const LABEL = 13;

export function stateOf(status: DiskStatus | undefined): string {
  return status?.state.replace("DISK_STATE_", "") ?? "?";
}

/** Why the disk is not UP, for people; empty if it is. */
function reasonOf({ status }: Disk): string {
  if (stateOf(status) === "UP") return "";
  const of = (type: string) => status?.conditions.find((condition) => condition.type === type);
  return of("Wiped")?.message ?? of("Attached")?.message ?? "";
}

/** `disk SERIAL is STATE: what is unusual, and why`. */
export function diskLine(disk: Disk): string {
  const why = diskNotes(disk, { reason: reasonOf(disk) });
  const line = `disk ${disk.status?.serial} is ${stateOf(disk.status)}`;
  return why === "" ? line : `${line}: ${why}`;
}

export function diskTable(disks: readonly Disk[]): string {
  const rows = disks.map((disk) => {
    const { meta, status } = disk;
    const notes = diskNotes(disk, { reason: reasonOf(disk) });
    const last = stateOf(status) === "MISSING" ? "last " : "";
    const where = `${last}${status?.transport} ${status?.address}`;
    const size = formatBytes(status?.sizeBytes ?? 0n);
    const id = meta?.id ?? "";
    return [id, status?.serial ?? "", stateOf(status), size, where, notes];
  });
  return table([["id", "serial", "state", "size", "where", ""], ...rows]).join("\n");
}

export function diskText(disk: Disk, width: number): string {
  const { meta, spec, status } = disk;
  if (status === undefined) return `disk ${meta?.id}`;
  const line = (label: string, text: string) => labelled(label, text, { width, label: LABEL });
  const { lvstore, health, evidence } = status;
  const parts = [
    line("disk", meta?.id ?? ""),
    line("serial", `${status.serial}, model ${status.model}, namespace ${status.nsid}`),
    line("state", [stateOf(status), reasonOf(disk)].filter((text) => text !== "").join(": ")),
    line("admitted", spec?.admitted === true ? "yes" : "no"),
    line("where", placeText(status)),
    line("size", `${formatBytes(status.sizeBytes)}, blocks of ${status.blockSize} bytes`),
  ];
  if (spec?.cordoned === true) parts.push(line("cordoned", "it takes no new volumes"));
  if (lvstore !== undefined) {
    const { name, totalBytes, freeBytes, promisedBytes } = lvstore;
    const space = `${formatBytes(freeBytes)} of ${formatBytes(totalBytes)} free`;
    parts.push(line("store", `${name}, ${space}, ${formatBytes(promisedBytes)} promised`));
  }
  if (health !== undefined) {
    const word = health.state.replace("DISK_HEALTH_STATE_", "");
    parts.push(line("health", [word, ...health.reasons].join(", ")));
  }
  parts.push(line("locate", ledText(status)));
  for (const text of evidenceLines(status)) parts.push(line("evidence", text));
  if (evidence.length > 0) parts.push(line("fingerprint", status.evidenceFingerprint));
  for (const { type, status: is, reason, message } of status.conditions) {
    if (message === "") continue;
    const word = is.replace("CONDITION_STATUS_", "");
    parts.push(line("condition", `${type} ${word}, ${reason}: ${message}`));
  }
  if (status.lastError !== "") parts.push(line("last error", status.lastError));
  return parts.join("\n");
}

/** What speaks against using it. */
export function evidenceLines({ evidence }: DiskStatus): readonly string[] {
  return evidence.map(({ kind, subject, detail }) => `${kind} ${subject} ${detail}`.trimEnd());
}

function placeText({ state, transport, address, driver, kernelName }: DiskStatus): string {
  const under = driver === "" ? "no driver" : `driver ${driver}`;
  if (state === "DISK_STATE_MISSING") return `nowhere; it was last at ${transport} ${address}`;
  const name = kernelName === "" || driver !== "nvme" ? "" : `, ${kernelName}`;
  return transport === "PCIe"
    ? `${transport} ${address}, ${under}${name}`
    : `${transport} ${address}`;
}

function ledText({ locate }: DiskStatus): string {
  switch (locate) {
    case "LOCATE_STATE_ON":
      return "on";
    case "LOCATE_STATE_OFF":
      return "off";
    default:
      return "no LED of its slot is known";
  }
}
