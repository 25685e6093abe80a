// export: subsystem, hosts, namespace, listeners and limits of every volume that should be reachable, and their
// removal when it is being deleted.
//
// An export becomes reachable last: a host that connects to a subsystem without its namespace removes
// the block device (docs/spdk-contract.md). So the namespace is attached before a listener is added, and
// a listener that is found without the namespace is removed before anything else.
//
// It never removes what no row names, never exports a volume whose data is missing, and never lets in a
// host that is not confirmed.
import { allowHostKey, listenKey } from "../../model/export-parts.ts";
import { wasRefused } from "../../model/failure.ts";
import { exportNguid } from "../../model/identity.ts";
import {
  confirmedHosts,
  NO_LIMITS,
  sameAddress,
  sameLimits,
  type ListenAddress,
  type LvolRow,
  type ObservedSubsystem,
} from "../../model/lvol.ts";
import { dataMissing, namespaceState, type PresentSubsystem } from "../../model/lvol-state.ts";
import { limitsSettled, realLimits } from "../../model/qos.ts";
import type { VolumeLoop } from "../loop.ts";
import { REPEATABLE, type EndExport, type VolumeStep } from "../steps.ts";
import type { VolumePlanView } from "./view.ts";

export const exportLoop: VolumeLoop = { name: "export", over: "lvol", plan };

function plan(view: VolumePlanView): VolumeStep | readonly VolumeStep[] | undefined {
  const { row, observed, targetConnected } = view;
  if (!targetConnected) return undefined;
  const { subsystem } = observed;
  if (row.deleteTime !== undefined) return endAgain(view);
  if (subsystem === undefined) return { kind: "observe-subsystem", nqn: row.nqn };
  if (view.releasing) return released(view, subsystem);
  if (row.deleteRequestedTime !== undefined && !view.restoreUntilUnexported) {
    if (subsystem.kind === "absent") return undefined;
    return view.subsystemUnknown === undefined ? endExport(view, subsystem) : probe(row, subsystem);
  }
  if (row.unconfirmed) return undefined;
  // Nothing of a volume without data is made; a listener without its namespace is removed all the same.
  if (dataMissing(view)) return withdrawn(view);
  // A volume that never had an lvol is worth preparing only if it can get one now.
  if (row.lvolUuid === undefined && (row.maybeMade || !view.diskReady)) return undefined;
  if (subsystem.kind === "absent") return prepareExport(view);
  // A subsystem with our NQN and another serial number was not created by us: it is left unchanged and
  // reported by the conditions.
  if (subsystem.serialNumber !== row.serialNumber) return undefined;
  const parts = [
    ...hosts(view, subsystem),
    ...namespace(view, subsystem),
    ...listeners(view, subsystem),
    ...qos(view, subsystem),
  ];
  if (view.subsystemUnknown !== undefined) {
    const repeatable = parts.filter(({ kind }) => REPEATABLE.has(kind));
    return repeatable.length > 0 ? repeatable : probe(row, subsystem);
  }
  if (!observed.subsystemStale) return parts;
  // Behind the parts, but not kept away by one that is refused again and again.
  return [...parts, { kind: "observe-subsystem", nqn: row.nqn }];
}

/** Lets nobody in; answered, it shows that an earlier change whose answer was lost has ended. */
function probe(row: LvolRow, subsystem: PresentSubsystem): VolumeStep {
  const allowAnyHost = subsystem.allowAnyHost && confirmedHosts(row).allowAnyHost;
  return { kind: "set-any-host", nqn: row.nqn, allowAnyHost };
}

/**
 * The subsystem of a tombstone came with a saved configuration of the target. It is ended before an lvol
 * that came back is deleted; a host that is connected to it has lost its volume long ago.
 */
function endAgain(view: VolumePlanView): VolumeStep | undefined {
  const { row, observed } = view;
  const { subsystem, lvol } = observed;
  if (subsystem === undefined) {
    const deleting = lvol?.kind === "present" || row.pendingOp !== undefined;
    return deleting ? { kind: "observe-subsystem", nqn: row.nqn } : undefined;
  }
  if (subsystem.kind === "absent" || subsystem.serialNumber !== row.serialNumber) return undefined;
  return { ...endExport(view, subsystem), forced: true };
}

/** The disk leaves the node, with hosts or without: whoever asked for that knew. */
function released(view: VolumePlanView, subsystem: ObservedSubsystem): VolumeStep | undefined {
  const { row } = view;
  if (subsystem.kind === "absent" || subsystem.serialNumber !== row.serialNumber) return undefined;
  if (view.subsystemUnknown !== undefined) return probe(row, subsystem);
  return { ...endExport(view, subsystem), forced: true };
}

function prepareExport({ row, dmrsl }: VolumePlanView): VolumeStep {
  return {
    kind: "prepare-export",
    nqn: row.nqn,
    serialNumber: row.serialNumber,
    modelNumber: row.modelNumber,
    dmrsl,
    ...confirmedHosts(row),
  };
}

/** Each host on its own: one that SPDK refuses keeps no other away. */
function hosts({ row }: VolumePlanView, subsystem: PresentSubsystem): readonly VolumeStep[] {
  const { nqn } = row;
  const wanted = confirmedHosts(row);
  const { allowAnyHost } = wanted;
  return [
    ...subsystem.hosts
      .filter((host) => !wanted.hosts.includes(host))
      .map((host) => ({ kind: "deny-host", nqn, host }) as const),
    ...(subsystem.allowAnyHost === allowAnyHost
      ? []
      : [{ kind: "set-any-host", nqn, allowAnyHost } as const]),
    ...wanted.hosts
      .filter((host) => !subsystem.hosts.includes(host))
      .map((host) => ({ kind: "allow-host", nqn, host }) as const),
  ];
}

/** The namespace, once the lvol was observed and while nobody can connect. */
function namespace(view: VolumePlanView, subsystem: PresentSubsystem): readonly VolumeStep[] {
  const { row, observed } = view;
  if (observed.lvol?.kind !== "present" || subsystem.listeners.length > 0) return [];
  // Nobody sees a clone before it has the data of its snapshot.
  if (row.cloning) return [];
  const { uuid: lvolUuid } = observed.lvol;
  if (namespaceState(row, subsystem, lvolUuid) !== "absent") return [];
  const { nqn, id: uuid } = row;
  return [{ kind: "add-namespace", nqn, lvolUuid, uuid, nguid: exportNguid(row.id) }];
}

function listeners(view: VolumePlanView, subsystem: PresentSubsystem): readonly VolumeStep[] {
  const { row, observed, listenAddresses, failures } = view;
  const { nqn } = row;
  const lvolUuid = observed.lvol?.kind === "present" ? observed.lvol.uuid : row.lvolUuid;
  const state = namespaceState(row, subsystem, lvolUuid);
  const remove = (addresses: readonly ListenAddress[]) =>
    addresses.map((address) => ({ kind: "remove-listener", nqn, address }) as const);
  if (state === "absent") return remove(subsystem.listeners);
  if (state !== "attached") return [];
  const isIn = (addresses: readonly ListenAddress[]) => (address: ListenAddress) =>
    addresses.some((other) => sameAddress(address, other));
  const missing = listenAddresses.filter((address) => !isIn(subsystem.listeners)(address));
  const add =
    view.held === undefined
      ? missing.map((address) => ({ kind: "add-listener", nqn, address }) as const)
      : [];
  // Addresses that are not configured any more go once the new ones are up, or cannot be had.
  const settled = missing.every((address) => wasRefused(failures, listenKey(address)));
  const unwanted = subsystem.listeners.filter((address) => !isIn(listenAddresses)(address));
  const moved = settled && subsystem.listeners.length > unwanted.length;
  return [...add, ...(moved ? remove(unwanted) : [])];
}

/** Of an lvol that is not attached, limits can be set only once (docs/spdk-contract.md#qos). */
function qos(
  { row, observed }: VolumePlanView,
  subsystem: PresentSubsystem,
): readonly VolumeStep[] {
  const { lvol } = observed;
  if (lvol?.kind !== "present") return [];
  const { uuid: lvolUuid, limits } = lvol;
  if (namespaceState(row, subsystem, lvolUuid) !== "attached") return [];
  if (sameLimits(limits, realLimits(row.qos))) return [];
  return [{ kind: "set-qos", nqn: row.nqn, lvolUuid, limits: row.qos ?? NO_LIMITS }];
}

function withdrawn({ row, observed }: VolumePlanView): readonly VolumeStep[] {
  const { subsystem } = observed;
  if (subsystem?.kind !== "present" || subsystem.serialNumber !== row.serialNumber) return [];
  if (subsystem.namespaces.length > 0) return [];
  const { nqn } = row;
  return subsystem.listeners.map((address) => ({ kind: "remove-listener", nqn, address }) as const);
}

function endExport(view: VolumePlanView, subsystem: PresentSubsystem): EndExport {
  const { row } = view;
  return {
    kind: "end-export",
    nqn: row.nqn,
    forced: row.deleteForced,
    listeners: subsystem.listeners,
    attached: subsystem.namespaces.some(({ nsid }) => nsid === 1),
  };
}

/** Whether every part of the export is as wanted, or was refused by the target. */
export function exportSettled(view: VolumePlanView): boolean {
  const { row, observed, failures, listenAddresses } = view;
  const { subsystem } = observed;
  if (subsystem?.kind !== "present" || observed.subsystemStale || view.inFlight) return false;
  if (view.subsystemUnknown !== undefined) return false;
  const wanted = confirmedHosts(row);
  const refused = (key: string) => wasRefused(failures, key);
  return (
    limitsSettled(view) &&
    subsystem.allowAnyHost === wanted.allowAnyHost &&
    subsystem.hosts.every((host) => wanted.hosts.includes(host)) &&
    wanted.hosts.every((host) => subsystem.hosts.includes(host) || refused(allowHostKey(host))) &&
    listenAddresses.every(
      (address) =>
        subsystem.listeners.some((is) => sameAddress(is, address)) || refused(listenKey(address)),
    )
  );
}
