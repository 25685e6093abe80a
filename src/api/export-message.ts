// Converts the view of a volume to its Export: where it is reached, by whom, and whether it is ready.
import type { Export, ExportHost, Listener } from "../gen/storagenode/v1/export.ts";
import { MAX_HOSTS } from "../limits.ts";
import { exportNguid } from "../model/identity.ts";
import { allowHostKey, listenKey } from "../model/export-parts.ts";
import { lvolConditions, lvolState, namespaceState, type VolumeView } from "../model/lvol-state.ts";
import { ANY_HOST, confirmedHosts, sameAddress } from "../model/lvol.ts";
import { takesAway } from "../model/unknown-outcome.ts";
import { waitText } from "../model/wait.ts";
import { conditionMessage } from "./messages.ts";
import { TARGET_AWAY } from "../model/target-process.ts";

/** Whether hosts can connect now, and if not, why. hostNqn: checks that host too. */
function exportReadiness(
  view: VolumeView,
  hostNqn: string | undefined,
): { readonly ready: boolean; readonly reason: string; readonly message: string } {
  const { row, observed } = view;
  const no = (reason: string, message: string) => ({ ready: false, reason, message });
  const waiting = (message: string) =>
    view.wait === undefined ? message : `${message}: ${waitText(view.wait)}`;
  if (row.deleteRequestedTime !== undefined) return no("DELETING", "the volume is being deleted");
  if (!view.targetConnected) return no("TARGET_DOWN", TARGET_AWAY);
  if (!view.diskReady) return no("DISK_NOT_UP", view.diskReason);
  const state = lvolState(view);
  if (state === "DATA_MISSING") return no("DATA_MISSING", "the lvol is missing on the target");
  if (observed.lvol?.kind !== "present")
    return no("NOT_CREATED", waiting("the lvol does not exist yet"));
  if (namespaceState(row, observed.subsystem, observed.lvol.uuid) !== "attached") {
    return no("NOT_EXPORTED", "the lvol is not attached as a namespace yet");
  }
  if (observed.subsystem?.kind !== "present" || observed.subsystem.listeners.length === 0) {
    return no("NO_LISTENER", waiting("the subsystem has no listener"));
  }
  if (hostNqn !== undefined && !row.allowAnyHost && !row.hosts.includes(hostNqn)) {
    return no("HOST_NOT_ALLOWED", `${hostNqn} is not an allowed host: call AllowHost`);
  }
  const confirmed = confirmedHosts(row);
  if (hostNqn !== undefined && !confirmed.allowAnyHost && !confirmed.hosts.includes(hostNqn)) {
    const message = `${hostNqn} may not connect before ConfirmHosts or AllowHost is called`;
    return no("HOST_UNCONFIRMED", message);
  }
  const { hosts, allowAnyHost } = observed.subsystem;
  if (hostNqn !== undefined && !allowAnyHost && !hosts.includes(hostNqn)) {
    return no("HOST_NOT_ALLOWED_YET", `the target does not allow ${hostNqn} yet`);
  }
  const { subsystemUnknown: unknown } = view;
  if (hostNqn !== undefined && unknown !== undefined && takesAway(unknown)) {
    const since = unknown.since.toISOString();
    return no("HOST_NOT_ALLOWED_YET", `the outcome of ${unknown.method} is unknown since ${since}`);
  }
  return { ready: true, reason: "READY", message: "" };
}

export function exportMessage(view: VolumeView, hostNqn: string | undefined): Export {
  const { row } = view;
  const readiness = exportReadiness(view, hostNqn);
  return {
    lvolId: row.id,
    nqn: row.nqn,
    nsid: 1,
    uuid: row.id,
    nguid: exportNguid(row.id),
    serialNumber: row.serialNumber,
    modelNumber: row.modelNumber,
    listeners: listeners(view),
    hosts: hosts(view),
    allowedHostNqns: [...row.hosts],
    allowAnyHost: row.allowAnyHost,
    anyHostUnconfirmed: row.unconfirmedHosts.includes(ANY_HOST),
    ready: readiness.ready,
    conditions: [
      ...lvolConditions(view).map((condition) => conditionMessage(condition)),
      conditionMessage({
        type: "Ready",
        status: readiness.ready ? "TRUE" : "FALSE",
        reason: readiness.reason,
        message: readiness.message,
      }),
    ],
  };
}

/** Conditions that name no host. */
const OF_ALL_HOSTS: ReadonlySet<string> = new Set([
  "TargetConnected",
  "DiskReady",
  "LvolCreated",
  "SizeReached",
  "Exported",
  "Ready",
]);

/** What a client is shown that has these hosts: nothing that names another host. */
export function exportOfHosts(message: Export, own: readonly string[]): Export {
  return {
    ...message,
    hosts: message.hosts.filter(({ nqn }) => own.includes(nqn)),
    allowedHostNqns: message.allowedHostNqns.filter((nqn) => own.includes(nqn)),
    conditions: message.conditions.filter(({ type }) => OF_ALL_HOSTS.has(type)),
  };
}

/** The configured addresses first, then those that are to be removed. */
function listeners({ observed, listenAddresses, failures }: VolumeView): Listener[] {
  const present = observed.subsystem?.kind === "present" ? observed.subsystem.listeners : [];
  const others = present.filter(
    (address) => !listenAddresses.some((wanted) => sameAddress(wanted, address)),
  );
  const one = (address: (typeof present)[number], wanted: boolean): Listener => {
    const failure = failures[listenKey(address)];
    return {
      ...address,
      listening: present.some((listener) => sameAddress(address, listener)),
      wanted,
      lastError: failure?.message ?? "",
      nextTryTime: failure?.nextTryTime,
    };
  };
  return [
    ...listenAddresses.map((address) => one(address, true)),
    ...others.map((address) => one(address, false)),
  ];
}

/** The hosts of the row, then the first ones that the target allows although the row does not. */
function hosts({ row, observed, failures }: VolumeView): ExportHost[] {
  const admitted = observed.subsystem?.kind === "present" ? observed.subsystem.hosts : [];
  const others = admitted.filter((host) => !row.hosts.includes(host)).slice(0, MAX_HOSTS);
  return [...row.hosts, ...others].map((nqn) => {
    const failure = failures[allowHostKey(nqn)];
    return {
      nqn,
      allowed: row.hosts.includes(nqn),
      admitted: admitted.includes(nqn),
      connected: observed.connected?.includes(nqn),
      unconfirmed: row.unconfirmedHosts.includes(nqn),
      lastError: failure?.message ?? "",
      nextTryTime: failure?.nextTryTime,
    };
  });
}
