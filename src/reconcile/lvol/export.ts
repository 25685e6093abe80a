// export: transport, subsystem, hosts, namespace and listeners of every volume that should be
// reachable, and their removal when it is being deleted. The only loop that touches NVMe-oF.
//
// It never removes what no row names, and never exports a volume whose data is missing.
import { exportNguid, exportSerial, EXPORT_MODEL } from "../../model/identity.ts";
import { dataMissing, namespaceState, sameAddress } from "../../model/lvol.ts";
import type { VolumeLoop } from "../loop.ts";
import type { AdjustExport, VolumeStep } from "../steps.ts";
import type { VolumePlanView } from "./view.ts";

export const exportLoop: VolumeLoop = { name: "export", over: "lvol", plan };

function plan(view: VolumePlanView): VolumeStep | undefined {
  const { row, observed, targetConnected } = view;
  if (!targetConnected || row.deleteTime !== undefined) return undefined;
  if (observed.subsystem === undefined) return { kind: "observe-subsystem", nqn: row.nqn };
  if (row.deleteRequestedTime !== undefined) {
    return observed.subsystem.kind === "absent"
      ? undefined
      : { kind: "delete-subsystem", nqn: row.nqn };
  }
  if (row.unconfirmed || dataMissing(view)) return undefined;
  // A volume that never got its lvol is worth preparing only if it can get one now.
  if (row.lvolUuid === undefined && !view.diskReady) return undefined;
  if (observed.subsystem.kind === "absent") {
    return {
      kind: "prepare-export",
      nqn: row.nqn,
      serialNumber: exportSerial(row.id),
      modelNumber: EXPORT_MODEL,
      allowAnyHost: row.allowAnyHost,
      hosts: row.hosts,
      listeners: view.listenAddresses,
    };
  }
  // Another subsystem under our NQN was not made by us: left alone, reported by the conditions.
  if (observed.subsystem.serialNumber !== exportSerial(row.id)) return undefined;
  return adjust(view) ?? attach(view);
}

/** Hosts and listeners to what is wanted. Access is taken away before anything is added. */
function adjust(view: VolumePlanView): AdjustExport | undefined {
  const { row, observed, listenAddresses } = view;
  if (observed.subsystem?.kind !== "present") return undefined;
  const { hosts, allowAnyHost, listeners } = observed.subsystem;
  const step: AdjustExport = {
    kind: "adjust-export",
    nqn: row.nqn,
    removeHosts: hosts.filter((host) => !row.hosts.includes(host)),
    addHosts: row.hosts.filter((host) => !hosts.includes(host)),
    allowAnyHost: allowAnyHost === row.allowAnyHost ? undefined : row.allowAnyHost,
    addListeners: listenAddresses.filter((want) => !listeners.some((is) => sameAddress(want, is))),
  };
  const nothing =
    step.removeHosts.length === 0 &&
    step.addHosts.length === 0 &&
    step.allowAnyHost === undefined &&
    step.addListeners.length === 0;
  return nothing ? undefined : step;
}

/** The namespace, once the lvol is seen in this run. */
function attach(view: VolumePlanView): VolumeStep | undefined {
  const { row, observed } = view;
  if (observed.lvol?.kind !== "present") return undefined;
  if (namespaceState(row, observed.subsystem, observed.lvol.uuid) !== "absent") return undefined;
  return {
    kind: "add-namespace",
    nqn: row.nqn,
    lvolUuid: observed.lvol.uuid,
    uuid: row.id,
    nguid: exportNguid(row.id),
  };
}
