// Turns what was observed of a controller into the status columns of its row. Pure.
import type { ControllerState, ControllerStatusPatch } from "../../model/controller.ts";
import { sameFailures, worstFailure } from "../../model/failure.ts";
import { pendingOpPhase } from "../../model/pending-op.ts";
import {
  claimBlockers,
  isMemberInUse,
  isOtherDrive,
  isSetBack,
  isTaken,
  isUseful,
  isWanted,
  KERNEL_DRIVER,
  VFIO,
} from "./closure-rules.ts";
import type { ControllerView, Member } from "./view.ts";

type Phase = { readonly state: ControllerState; readonly stateReason: string };
type Patch = { -readonly [Key in keyof ControllerStatusPatch]: ControllerStatusPatch[Key] };

/** The columns that differ from the row; undefined when the row agrees with what is observed. */
export function controllerRecord(view: ControllerView): ControllerStatusPatch | undefined {
  if (!view.kernelListed) return undefined;
  const { row } = view;
  const patch: Patch = {};
  const phase = controllerPhase(view);
  if (phase !== undefined) {
    if (phase.state !== row.state) patch.state = phase.state;
    if (phase.stateReason !== row.stateReason) patch.stateReason = phase.stateReason;
  }
  Object.assign(patch, kernelColumns(view), wayBack(view), failuresPatch(view), drivePatch(view));
  if (view.targetListed && row.controllerName !== view.attachedAs) {
    patch.controllerName = view.attachedAs;
  }
  if (pendingEnded(view)) patch.pendingOp = undefined;
  if (row.observedGeneration !== row.generation && row.inspectRequestedTime === undefined) {
    patch.observedGeneration = row.generation;
  }
  return Object.keys(patch).length === 0 ? undefined : patch;
}

const ELSEWHERE =
  "a disk on it belongs to another node of the fleet: call ReleaseDisk there, and it is listed here, unless it " +
  "shows another NGUID or EUI64 than the one of that node";

/** The state of the controller and its reason; undefined while too little is observed. */
function controllerPhase(view: ControllerView): Phase | undefined {
  const { row, inKernel, attachedAs, targetListed } = view;
  const is = (state: ControllerState, stateReason = ""): Phase => ({ state, stateReason });
  if (attachedAs !== undefined) return is("ATTACHED", conflictOf(view) ?? "");
  if (inKernel === undefined) return is("MISSING", `no PCI function at ${row.id}`);
  if (!targetListed && inKernel.driver === VFIO) return undefined;
  if (isSetBack(view, row)) return is("FAILED", row.setback?.reason);
  const conflict = conflictOf(view);
  if (conflict !== undefined) return is("CONFLICT", conflict);
  if (isTaken(view)) return is("CLAIMED", inUseElsewhere(view) ?? keptFor(view) ?? "");
  if (inKernel.driver !== KERNEL_DRIVER) return unidentified(view);
  if (inKernel.identity === undefined) {
    return is("REJECTED", "the kernel shows no live controller with a serial there: see dmesg");
  }
  if (view.elsewhere) return is("AVAILABLE", ELSEWHERE);
  const wanted = view.disks.some((disk) => isWanted(disk.row));
  // In the middle of a claim, or just given back.
  const isMoving = row.originalDriver !== undefined && view.members.some(isUninspected);
  if (isMoving) return is("AVAILABLE", row.stateReason);
  return is("AVAILABLE", wanted ? (claimBlockers(view)[0] ?? "") : "");
}

function conflictOf({ disks }: ControllerView): string | undefined {
  return disks.find(({ conflict }) => conflict !== undefined)?.conflict;
}

function inUseElsewhere({ groupUser }: ControllerView): string | undefined {
  return groupUser === undefined ? undefined : `VFIO_IN_USE: ${groupUser}`;
}

/** What keeps a controller of no use from being given back; undefined: nothing. */
function keptFor({ disks, members }: ControllerView): string | undefined {
  const user = disks.some(isUseful) ? undefined : members.find(isMemberInUse);
  return user && `it goes back together with ${user.address}, which is in use`;
}

function unidentified(view: ControllerView): Phase {
  const { inKernel, row } = view;
  const { driver, driverOverride } = inKernel ?? {};
  if (driver === undefined && driverOverride === undefined) {
    const stateReason = "no driver has it; the kernel's may have given it up: see dmesg";
    return { state: "REJECTED", stateReason };
  }
  const held = inUseElsewhere(view);
  const where = driver === undefined ? `it is overridden to ${driverOverride}` : `driver ${driver}`;
  const cure =
    driver === VFIO
      ? `, not taken by this agent: AdmitDisk with the address ${row.id} has it looked at`
      : "";
  return { state: "UNIDENTIFIED", stateReason: held ?? `${where}${cure}` };
}

function kernelColumns({ row, inKernel, disks, attachedAs, now }: ControllerView): Patch {
  const patch: Patch = {};
  if (inKernel !== undefined && row.driver !== inKernel.driver) patch.driver = inKernel.driver;
  if (inKernel !== undefined && row.iommuGroup !== inKernel.iommuGroup) {
    patch.iommuGroup = inKernel.iommuGroup;
  }
  const onTarget = disks.find((disk) => disk.onTarget !== undefined)?.row;
  const identity = attachedAs === undefined ? inKernel?.identity : onTarget;
  if (identity !== undefined) {
    if (row.serial !== identity.serial) patch.serial = identity.serial;
    if (row.model !== identity.model) patch.model = identity.model;
  }
  if (Object.keys(patch).length > 0) patch.lastSeenTime = now;
  return patch;
}

/** From which driver it was taken: forgotten once it is back, recorded of one that was found attached. */
function wayBack(view: ControllerView): Patch {
  const { row, inKernel, attachedAs, disks, members } = view;
  const taken = { originalDriver: KERNEL_DRIVER, members: [row.id] };
  if (attachedAs !== undefined) {
    const ours = disks.some((disk) => disk.row.lvsUuid !== undefined && isWanted(disk.row));
    return ours && row.originalDriver === undefined ? taken : {};
  }
  if (row.originalDriver === undefined || isTaken(view)) return {};
  // A claim forgets what was found on its disks before the next scan of the kernel shows the new driver.
  const isUnsure = view.inFlight || members.some(isUninspected);
  const isClaiming = inKernel?.driver === KERNEL_DRIVER && claimBlockers(view).length === 0;
  const isHalfClaimed = inKernel?.driverOverride === VFIO;
  return isUnsure || isClaiming || isHalfClaimed ? {} : { originalDriver: undefined, members: [] };
}

function isUninspected({ disks }: Member): boolean {
  return disks.some(({ evidence }) => evidence === undefined);
}

/** What ends with the drive that was there, and with the use of the one that is. */
function drivePatch(view: ControllerView): Patch {
  const { row, inKernel } = view;
  const patch: Patch = {};
  const isOther = isOtherDrive(view);
  if (row.setback !== undefined && (works(view) || isOther)) patch.setback = undefined;
  // On vfio-pci, nobody could know which drive was asked for.
  const wasShown = row.driver === KERNEL_DRIVER && row.originalDriver === undefined;
  const isOver = isHeld(view) || (isOther && (wasShown || inKernel === undefined));
  if (row.inspectRequestedTime !== undefined && isOver) {
    Object.assign(patch, { inspectRequestedTime: undefined, inspectSerial: undefined });
  }
  return patch;
}

/** In use by the agent itself: it is not handed back, so a request for that would keep it away for good. */
function isHeld(view: ControllerView): boolean {
  const isClaimed = view.row.members.length > 1;
  return isTaken(view) && (isClaimed || view.attachedAs !== undefined);
}

function pendingEnded(view: ControllerView): boolean {
  const { row, attachedAs, disks, pending, inFlight } = view;
  if (row.pendingOp === undefined || !view.targetListed || inFlight) return false;
  if (pendingOpPhase(row.pendingOp, pending) === "interrupted") return true;
  if (row.pendingOp.op === "detach") return attachedAs === undefined;
  // A store may still be loading.
  const isKnown = disks.every(
    ({ row: disk, onTarget, loadEnded }) =>
      onTarget === undefined ||
      onTarget.store !== undefined ||
      disk.lvsUuid === undefined ||
      loadEnded,
  );
  return attachedAs !== undefined && isKnown;
}

function works({ attachedAs, disks }: ControllerView): boolean {
  return attachedAs !== undefined && disks.some(({ onTarget }) => onTarget?.store !== undefined);
}

function failuresPatch({ row, failures }: ControllerView): Patch {
  if (sameFailures(row.failures, failures)) return {};
  const worst = worstFailure(failures);
  return {
    failures,
    lastError: worst?.message,
    attempt: worst?.attempt ?? 0,
    nextTryTime: worst?.nextTryTime,
  };
}
