// What may be done to the controllers that are taken together (docs/architecture.md#rules). Pure.
import { isChanged } from "../../model/disk-admission.ts";
import { refusing } from "../../model/disk-claim.ts";
import { hasDrive, type ControllerRow } from "../../model/controller.ts";
import { isInspecting, type DiskRow } from "../../model/disk.ts";
import { CLAIM_RETRY_FIRST_MS, CLAIM_RETRY_LAST_MS, MIN_DISK_BYTES } from "../../limits.ts";
import type { ControllerView, DiskThere, Member } from "./view.ts";

export const VFIO = "vfio-pci";
export const KERNEL_DRIVER = "nvme";

/** The agent has taken it from its driver, and it is not back. */
export function isTaken({ row, inKernel }: Member): boolean {
  if (row?.originalDriver === undefined || inKernel === undefined) return false;
  return inKernel.driver === VFIO || inKernel.driver === undefined;
}

export function isWanted(row: DiskRow): boolean {
  return (row.admitted && row.wanted === "take") || isInspecting(row);
}

/** What its controller is taken and kept for. */
export function isUseful({ row }: DiskThere): boolean {
  if (row.wanted === "release") return false;
  return isWanted(row) || row.lvsUuid !== undefined;
}

/** A store is loaded on it or recorded, of whomever, or one may still be loading. */
export function isInUse({ row, onTarget, loadEnded, exportsLeft }: DiskThere): boolean {
  if (onTarget === undefined) return false;
  if (row.wanted === "release") return exportsLeft > 0;
  return onTarget.store !== undefined || row.lvsUuid !== undefined || !loadEnded;
}

/** Of an attached controller on which no disk was found, nobody knows what it is used for. */
export function isMemberInUse({ attachedAs, disks }: Member): boolean {
  if (attachedAs === undefined) return false;
  const onTarget = disks.filter((disk) => disk.onTarget !== undefined);
  return onTarget.length === 0 || onTarget.some(isInUse);
}

/** The drive that its row tells of is there no more: one that is plugged in anew begins anew. */
export function isOtherDrive({ kernelListed, row, inKernel, attachedAs }: ControllerView): boolean {
  if (!kernelListed || attachedAs !== undefined) return false;
  const identity = inKernel?.identity;
  if (inKernel === undefined || identity === undefined) return inKernel === undefined;
  return row.serial !== undefined && !hasDrive(row, identity);
}

/** How long it waits after so many failures in a row. */
export function setbackMs(attempt: number): number {
  return Math.min(CLAIM_RETRY_FIRST_MS * 2 ** (attempt - 1), CLAIM_RETRY_LAST_MS);
}

/** It was given back, and its time to be tried again has not come. */
export function isSetBack(view: Pick<ControllerView, "now" | "pending">, row: ControllerRow) {
  const { setback } = row;
  if (setback === undefined) return false;
  const leftMs = setback.nextTryTime.getTime() - view.now.getTime();
  // More than it was to wait: the clock was set back.
  if (leftMs <= 0 || leftMs > setbackMs(setback.attempt)) return false;
  const { incarnation } = view.pending;
  return incarnation === undefined || incarnation === setback.run;
}

/** The member with the lowest address that has its drive: two controllers may share their disks. */
export function isSecondPort(view: ControllerView): boolean {
  const { row, members } = view;
  const { serial, model } = row;
  if (serial === undefined || model === undefined) return false;
  return members.some(
    (other) =>
      other.address < view.address &&
      other.row !== undefined &&
      hasDrive(other.row, { serial, model }) &&
      (isTaken(other) || other.attachedAs !== undefined),
  );
}

/** Why the closure is not claimed now, for people; empty: it is. */
export function claimBlockers(view: ControllerView): readonly string[] {
  const { members, obstacle, groupUser } = view;
  const ofNode = obstacle === undefined ? [] : [obstacle];
  const user = groupUser === undefined ? [] : [`VFIO_IN_USE: ${groupUser}`];
  const moving = members.filter(({ inKernel }) => inKernel?.driver === KERNEL_DRIVER);
  return [...moving.flatMap((member) => memberBlockers(view, member)), ...user, ...ofNode];
}

function memberBlockers(view: ControllerView, member: Member): readonly string[] {
  const { address, row, inKernel, disks, attachedAs } = member;
  const own = address === view.address ? "" : `${address} is taken with it: `;
  const says = (why: string) => [`${own}${why}`];
  if (row === undefined || attachedAs !== undefined) return says("it is being looked at");
  if (isSetBack(view, row)) return says(row.setback?.reason ?? "");
  if (disks.length === 0 || disks.length < (inKernel?.namespaces ?? 0)) {
    return says("not all of its namespaces are known disks");
  }
  const conflict = disks.find((disk) => disk.conflict !== undefined)?.conflict;
  if (conflict !== undefined) return says(`CONFLICT: ${conflict}`);
  if (!disks.some((disk) => isWanted(disk.row))) return says("none of its disks is admitted");
  return disks.flatMap((disk) => diskBlocker(view, disk)).map((why) => `${own}${why}`);
}

function diskBlocker(view: ControllerView, disk: DiskThere): readonly string[] {
  const { row, evidence } = disk;
  const name = `${row.serial}/${row.nsid}`;
  if (evidence === undefined) return [`${name} was not looked at yet`];
  const [against] = refusing(evidence, view.ownSubjects);
  if (against !== undefined) {
    return [`${against.kind}: ${against.subject} ${against.detail}`];
  }
  if (isChanged(row, evidence)) return [`${name} changed after it was admitted`];
  if (row.wanted === "take" && isWanted(row) && isTooSmall(row)) {
    return [`DISK_TOO_SMALL: ${name} has ${row.sizeBytes} bytes, a store needs ${MIN_DISK_BYTES}`];
  }
  return [];
}

/** For a store that is to be made. */
function isTooSmall(row: DiskRow): boolean {
  return (
    row.lvsUuid === undefined && row.adoptedStore === undefined && row.sizeBytes < MIN_DISK_BYTES
  );
}
