// The loop `controller-take`: takes the controllers of admitted disks from the kernel (vfio-pci),
// attaches them, and gives back those that cannot be used.
//
// It never unbinds, detaches or gives back anything while a disk of the closure is in use, nor from the target
// while an earlier agent may be changing an lvol there or attaching it, and acts on an address only if the
// drive there is the one that its row expects.
import { controllerName } from "../../model/identity.ts";
import { hasDrive, type ControllerRow } from "../../model/controller.ts";
import { isInspecting } from "../../model/disk.ts";
import { wasRefused, type StepFailure } from "../../model/failure.ts";
import { isInGrace, pendingOp, pendingOpPhase } from "../../model/pending-op.ts";
import { ATTACH_TRIES, FORMAT_TRIES } from "../../limits.ts";
import type { ControllerLoop } from "../loop.ts";
import type { ControllerStep } from "../steps.ts";
import {
  claimBlockers,
  isMemberInUse,
  isSecondPort,
  isSetBack,
  isTaken,
  isUseful,
  isWanted,
  KERNEL_DRIVER,
  setbackMs,
  VFIO,
} from "./closure-rules.ts";
import type { ControllerView, DiskThere, Member } from "./view.ts";

export const controllerTake: ControllerLoop = { name: "controller-take", over: "controller", plan };

const ATTACH = "controller-take/attach-controller";
const CREATE_STORE = "disk-init/create-store";

function plan(view: ControllerView): ControllerStep | undefined {
  const { targetConnected, targetListed, kernelListed, inKernel } = view;
  if (!targetConnected || !targetListed || !kernelListed || inKernel === undefined)
    return undefined;
  if (view.attachedAs !== undefined) return planAttached(view, view.attachedAs);
  if (isTaken(view)) return planTaken(view);
  if (inKernel.driver === VFIO) return planFound(view);
  return inKernel.driver === KERNEL_DRIVER ? planInKernel(view) : undefined;
}

/** Detaches a controller that is of no use as it is, unless a disk of the closure is in use. */
function planAttached(view: ControllerView, name: string): ControllerStep | undefined {
  const { row, disks, members } = view;
  if (members.some(isMemberInUse)) return undefined;
  const failure = formatFailure(disks);
  if (isNewFailure(row, failure) && !isSetBack(view, row)) return setBack(view, failure);
  const goes = isSetBack(view, row) || disks.some(isUninspected) || !disks.some(isUseful);
  if (!goes || (!isTaken(view) && !isOurName(view, name))) return undefined;
  if (isInGrace(view.pending)) return undefined;
  return recordThen(view, "detach", { kind: "detach-controller", controllerName: name });
}

/** Of a controller that was only attached to see which drive it is. */
function isOurName({ address }: ControllerView, name: string): boolean {
  return name === controllerName({ traddr: address });
}

/** On vfio-pci or between two drivers, taken by the agent: attaches it, or gives it back. */
function planTaken(view: ControllerView): ControllerStep | undefined {
  if (goesBack(view, view)) return release(view);
  if (isSecondPort(view) || view.groupUser !== undefined) return undefined;
  const failed = wasRefused(view.failures, ATTACH) ? view.failures[ATTACH] : undefined;
  const isForGood = failed !== undefined && failed.attempt >= ATTACH_TRIES;
  if (isForGood && isNewFailure(view.row, failed)) return setBack(view, failed);
  return attach(view);
}

function goesBack(view: ControllerView, { row, inKernel, disks }: Member): boolean {
  if (row === undefined) return false;
  if (inKernel?.driver === undefined || row.inspectRequestedTime !== undefined) return true;
  if (isSetBack(view, row)) return true;
  // Found on vfio-pci by this process: what is on it was not looked at. With the name of an lvstore
  // recorded, an earlier process may have made it: one attach finds out.
  return !disks.some((disk) => isUseful(disk) && (mayBeFormatted(disk) || mayHaveStore(disk)));
}

function mayBeFormatted({ row, claimedBlank }: DiskThere): boolean {
  return claimedBlank && row.wanted === "take";
}

function mayHaveStore({ row, foundEmpty }: DiskThere): boolean {
  if (row.lvsUuid !== undefined || row.adoptedStore !== undefined) return true;
  return isInspecting(row) || (row.lvsName !== undefined && !foundEmpty);
}

/** To be formatted, but nobody knows what is on it. */
function isUninspected(disk: DiskThere): boolean {
  const { row, onTarget, loadEnded } = disk;
  if (onTarget === undefined || onTarget.store !== undefined || !loadEnded) return false;
  const hasStore = row.lvsUuid !== undefined || row.adoptedStore !== undefined;
  return isWanted(row) && !hasStore && !mayBeFormatted(disk);
}

/** All members that were taken go back together, once each of them may; the first one plans it. */
function release(view: ControllerView): ControllerStep | undefined {
  const { members, groupUser, pending } = view;
  const taken = members.filter(isTaken);
  if (taken[0]?.address !== view.address || groupUser !== undefined) return undefined;
  if (isInGrace(pending)) return undefined;
  if (members.some(({ attachedAs }) => attachedAs !== undefined)) return undefined;
  if (!taken.every((member) => goesBack(view, member) || isPort(view, member))) return undefined;
  return {
    kind: "release-controllers",
    returns: taken.map(({ address, row }) => ({ address, driver: row?.originalDriver })),
  };
}

/** It has the same drive: what goes for one port goes for the other. */
function isPort({ row }: ControllerView, other: Member): boolean {
  const { serial, model } = row;
  if (serial === undefined || model === undefined || other.row === undefined) return false;
  return hasDrive(other.row, { serial, model });
}

/** On vfio-pci, and not taken by the agent: perhaps a virtual machine's. */
function planFound(view: ControllerView): ControllerStep | undefined {
  const { row, missing, address, groupUser } = view;
  if (groupUser !== undefined) return undefined;
  if (row.inspectRequestedTime !== undefined) {
    const patch = { originalDriver: KERNEL_DRIVER, members: [address] };
    return { kind: "record-controller", patch };
  }
  const mayBeMissing = missing.some((disk) => row.serial === undefined || hasDrive(row, disk));
  return mayBeMissing ? attach(view) : undefined;
}

/** Under the kernel's driver: claims the closure once every member permits it. */
function planInKernel(view: ControllerView): ControllerStep | undefined {
  const { row, inKernel, members, address } = view;
  // An earlier process died in the middle of a claim.
  if (row.originalDriver !== undefined && inKernel?.driverOverride === VFIO) {
    return { kind: "release-controllers", returns: [{ address, driver: row.originalDriver }] };
  }
  if (claimBlockers(view).length > 0) return undefined;
  // A group of which one is given back meanwhile could not be used.
  const isGoing = (member: Member) => isTaken(member) && goesBack(view, member);
  if (members.some((member) => member.attachedAs === undefined && isGoing(member)))
    return undefined;
  const moving = members.filter((member) => member.inKernel?.driver === KERNEL_DRIVER);
  const addresses = members.map((member) => member.address);
  if (!isPrepared(view, addresses)) {
    const patch = { originalDriver: KERNEL_DRIVER, members: addresses };
    return { kind: "record-controller", patch };
  }
  if (moving[0]?.address !== address) return undefined;
  if (!moving.every((member) => isPrepared(member, addresses))) return undefined;
  return {
    kind: "claim-controllers",
    addresses: moving.map((member) => member.address),
    disks: [...new Set(moving.flatMap(({ disks }) => disks.map(({ row: { id } }) => id)))],
  };
}

/** The way back is recorded. */
function isPrepared({ row }: Member, addresses: readonly string[]): boolean {
  return row?.originalDriver === KERNEL_DRIVER && row.members.join() === addresses.join();
}

function attach(view: ControllerView): ControllerStep | undefined {
  const { address: traddr } = view;
  const name = controllerName({ traddr });
  return recordThen(view, "attach", { kind: "attach-controller", controllerName: name, traddr });
}

/** It was tried once more since it was given back for such a failure. */
function isNewFailure(
  { setback }: ControllerRow,
  failure: StepFailure | undefined,
): failure is StepFailure {
  return failure !== undefined && failure.attempt > (setback?.tries ?? 0);
}

/** The refusal of formats that are not tried again; undefined: there are none. */
function formatFailure(disks: readonly DiskThere[]): StepFailure | undefined {
  const wanted = disks.filter(({ row }) => isWanted(row) && row.wanted === "take");
  const failures = wanted.map(({ row }) => row.failures[CREATE_STORE]);
  const forGood = wanted.every(({ row }, index) => {
    const failure = failures[index];
    return (
      failure !== undefined &&
      failure.attempt >= FORMAT_TRIES &&
      wasRefused(row.failures, CREATE_STORE)
    );
  });
  return forGood ? failures[0] : undefined;
}

function setBack(
  { row, now, pending }: ControllerView,
  { message: reason, attempt: tries }: StepFailure,
): ControllerStep | undefined {
  const { incarnation: run } = pending;
  if (run === undefined) return undefined;
  const attempt = (row.setback?.attempt ?? 0) + 1;
  const nextTryTime = new Date(now.getTime() + setbackMs(attempt));
  const setback = { attempt, tries, reason, run, nextTryTime };
  return { kind: "record-controller", patch: { setback } };
}

/** As recordThen of disk-init: the pending op is committed before the step is planned. */
function recordThen(
  view: ControllerView,
  op: "attach" | "detach",
  step: ControllerStep,
): ControllerStep | undefined {
  const { row, pending, writeMode } = view;
  const phase = pendingOpPhase(row.pendingOp, pending);
  if (phase === "running") return undefined;
  if (phase === "own" && row.pendingOp?.op === op) return step;
  if (writeMode === "restore-only" && op === "attach") return step;
  const recorded = pendingOp(op, pending);
  return recorded && { kind: "record-controller", patch: { pendingOp: recorded } };
}
