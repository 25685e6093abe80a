// The state of a disk, from its row and what is observed of it, and whether it can be used. Pure.
import { fleetHash, parseStoreName, storeName } from "../../model/identity.ts";
import { refusing, saysOfDisk, showsUse } from "../../model/disk-claim.ts";
import {
  isInspecting,
  NOT_LOOKED_AT,
  type DiskReadiness,
  type DiskState,
} from "../../model/disk.ts";
import type { ObservedDisk, ObservedStore } from "../target/observed-disk.ts";
import type { DiskView } from "./view.ts";
import { isInGrace } from "../../model/pending-op.ts";
import { TARGET_AWAY } from "../../model/target-process.ts";

/** States that the last look gave a disk, and that hold until the next one. */
const OF_A_LOOK: readonly DiskState[] = ["DISCOVERED", "IN_USE", "FOREIGN"];

type DiskPhase = { readonly state: DiskState; readonly stateReason: string };

/** Whether the disk can be used now, and what is shown of it beside its row. */
export function readiness(view: DiskView): DiskReadiness {
  const { outcomeUnknown, space, hostsMayFree, zeroesByItself, health, conflict } = view;
  const shown = { outcomeUnknown, space, discardsFree: hostsMayFree, zeroesByItself, health };
  const facts = { conflict, gone: isGone(view), loadedStore: view.onTarget?.store };
  return { ...shown, ...facts, ...ready(view) };
}

/** Whether volumes can be made and exported on the disk now, and if not, why. */
function ready(view: DiskView): Pick<DiskReadiness, "ready" | "reason"> {
  if (!view.targetConnected) return { ready: false, reason: TARGET_AWAY };
  const phase = diskPhase(view);
  if (phase?.state === "UP" && view.row.lvsUuid !== undefined) return { ready: true, reason: "" };
  return { ready: false, reason: phase?.stateReason ?? view.row.stateReason };
}

/** It was released and has left the machine. */
function isGone({ row, inKernel, onTarget }: DiskView): boolean {
  const isSeen = inKernel !== undefined || onTarget !== undefined;
  return row.wanted === "release" && row.state === "RELEASED" && !isSeen;
}

/** The state of the disk and its reason; undefined while too little is observed. */
export function diskPhase(view: DiskView): DiskPhase | undefined {
  const { row, onTarget } = view;
  const is = (state: DiskState, stateReason = ""): DiskPhase => ({ state, stateReason });
  const isFabric = view.fabric !== undefined;
  if (view.conflict !== undefined && onTarget === undefined) return is("CONFLICT", view.conflict);
  const gaveUp = row.state === "FAILED" && row.observedGeneration === row.generation;
  // What a local disk failed at is its controller's matter, and ends with that.
  if (gaveUp && isFabric) return undefined;
  if (!view.targetConnected || !view.targetListed) return undefined;
  if (onTarget !== undefined) return phaseOnTarget(view, onTarget);
  if (row.wanted === "release") return phaseReleased(view);
  if (view.fabric !== undefined) {
    return is(
      row.admitted ? "CLAIMING" : "DISCOVERED",
      row.lastError ?? view.waits ?? "not attached",
    );
  }
  return view.kernelListed ? phaseInKernel(view) : undefined;
}

function phaseOnTarget(view: DiskView, onTarget: ObservedDisk): DiskPhase {
  const { row, fabric } = view;
  const is = (state: DiskState, stateReason = ""): DiskPhase => ({ state, stateReason });
  const { store } = onTarget;
  if (row.wanted === "release") return is("RELEASING", releaseWaits(view));
  if (store !== undefined) {
    const foreign = foreignStore(view, store);
    if (foreign !== undefined) return is("FOREIGN", foreign);
    const isNamed = store.name === storeName(view.fleet, row.id);
    return isNamed ? is("UP") : is("CLAIMING", `its lvstore ${store.name} is being renamed`);
  }
  if (row.lvsUuid !== undefined) {
    // Loading takes minutes after a crash of the target.
    return view.loadEnded
      ? is("FAILED", `lvstore ${row.lvsUuid} was not found on the disk`)
      : is("CLAIMING", "its lvstore is being loaded");
  }
  if (row.wanted === "inspect" && view.loadEnded) {
    return is("FOREIGN", "NO_STORE: SPDK has loaded no lvstore from it");
  }
  if (!row.admitted) return is("DISCOVERED", row.admissionEnded ?? "not admitted");
  if (fabric !== undefined && !fabric.format) {
    return is("FOREIGN", "it has no lvstore, and its entry does not permit formatting it");
  }
  return is("CLAIMING", row.lastError ?? view.waits ?? "");
}

/** Why a loaded lvstore must not be used; undefined if it belongs to this disk and node. */
function foreignStore({ row, fleet }: DiskView, store: ObservedStore): string | undefined {
  if (row.adoptedStore === store.uuid) return undefined;
  const name = parseStoreName(store.name);
  if (name === undefined || name.fleet !== fleetHash(fleet)) {
    return `OTHER_FLEET: holds the lvstore ${store.name}`;
  }
  if (name.diskId !== row.id) return `COPY: holds the lvstore of disk ${name.diskId}`;
  if (row.lvsUuid !== undefined) {
    return row.lvsUuid === store.uuid
      ? undefined
      : `COPY: its lvstore has the uuid ${store.uuid} instead of ${row.lvsUuid}`;
  }
  // The name is recorded before the lvstore is created, so with that name it was created by this
  // node; any other lvstore needs a call of AdoptDisk.
  return row.lvsName === store.name
    ? undefined
    : `OTHER_NODE: holds an lvstore of this fleet without a row of this node; see AdoptDisk`;
}

/** What keeps a disk attached that is to be released; empty: nothing. */
function releaseWaits({ row, exportsLeft, heldBy, waits, pending }: DiskView): string {
  if (exportsLeft > 0) return `the exports of ${exportsLeft} of its volumes are being ended`;
  if (heldBy.length > 0) return `it goes together with ${heldBy.join(", ")}, which is in use`;
  if (isInGrace(pending)) {
    return `an earlier agent may be changing what is on it, until ${pending.graceUntil.toISOString()}`;
  }
  return row.lastError ?? waits ?? "";
}

/** Another node may use a released disk, so nothing that was sent may attach it to this target any more. */
function mayBeAttached({ row, inFlight, outcomeUnknown, attachMayRun }: DiskView): boolean {
  // Nothing attaches it after that without a note of it.
  if (row.state === "RELEASED" && row.pendingOp?.op !== "attach") return false;
  return inFlight || outcomeUnknown !== undefined || attachMayRun;
}

/** Not on the target: released once it is on no driver of ours, and nothing can attach it. */
function phaseReleased(view: DiskView): DiskPhase | undefined {
  const { row, inKernel, fabric, kernelListed, exportsLeft, waits = "" } = view;
  const is = (state: DiskState, stateReason = ""): DiskPhase => ({ state, stateReason });
  // Also of a disk that was pulled out, whose exports have outlived it. After that nothing is exported.
  if (row.state !== "RELEASED" && exportsLeft > 0) return is("RELEASING", releaseWaits(view));
  if (mayBeAttached(view))
    return is("RELEASING", "it may still be attached by what was sent before");
  if (fabric !== undefined) return is("RELEASED");
  if (!kernelListed) return undefined;
  if (inKernel === undefined) {
    return is("RELEASED", row.transport === "PCIe" ? "it is not in this machine any more" : "");
  }
  if (inKernel.taken && inKernel.driver !== undefined) return is("RELEASING", releaseWaits(view));
  // A claim of its controller may be under way, that was planned before.
  if (inKernel.driver === "nvme" && inKernel.evidence === undefined) {
    return row.state === "RELEASED" ? undefined : is("RELEASING", waits);
  }
  const [first] = refusing(inKernel.evidence ?? [], view.ownSubjects).filter(saysOfDisk);
  if (first !== undefined) return is("RELEASED", `${first.kind}: ${first.subject} ${first.detail}`);
  return is("RELEASED", inKernel.driver === undefined ? `no driver has it: ${waits}` : "");
}

function phaseInKernel(view: DiskView): DiskPhase | undefined {
  const { row, inKernel } = view;
  const is = (state: DiskState, stateReason = ""): DiskPhase => ({ state, stateReason });
  if (inKernel === undefined) return is("MISSING", `it is on no PCI function; last ${row.address}`);
  if (view.setback !== undefined && row.admitted) return is("FAILED", view.setback.reason);
  const blocking = refusing(inKernel.evidence ?? [], view.ownSubjects);
  const first = blocking.find(saysOfDisk) ?? blocking[0];
  const why = first && `${first.kind}: ${first.subject} ${first.detail}`;
  if (first !== undefined && saysOfDisk(first)) {
    return is(showsUse(blocking) ? "IN_USE" : "FOREIGN", why);
  }
  const isAsked = (row.admitted && row.wanted === "take") || isInspecting(row);
  if (isAsked) return is("CLAIMING", row.lastError ?? why ?? view.waits ?? "");
  // Where its kernel driver shows it, a look is due.
  const isUnseen = inKernel.evidence === undefined && inKernel.driver === "nvme";
  if (isUnseen && OF_A_LOOK.includes(row.state)) return undefined;
  if (isUnseen) return is("DISCOVERED", row.admissionEnded ?? NOT_LOOKED_AT);
  return is("DISCOVERED", row.admissionEnded ?? why ?? "not admitted");
}
