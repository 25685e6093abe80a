// Hosts that are connected to a subsystem: admission, and what ends or notifies a connection
// (docs/spdk-contract.md#hosts-and-a-restarting-target).
import type { Address, HostController, Subsystem } from "./nvmf-objects.ts";
import type { Target } from "./target.ts";

/** NVMe status of a refused connect, without DNR: the host asks again. */
const NO_SUCH_SUBSYSTEM = 0x182;
const NOT_ALLOWED = 0x184;

export type HostRequest = {
  readonly nqn: string;
  readonly host: string;
  /** Undefined: whatever address the subsystem listens on (tests). */
  readonly address: { readonly traddr: string; readonly trsvcid: string } | undefined;
};

type Listener = Pick<HostController, "onNamespaceChanged" | "onDisconnected">;

/** Connects a host, or returns the status and the reason of the refusal. */
export function connectHost(
  target: Target,
  { nqn, host, address }: HostRequest,
  listener: Listener = {},
): HostController | { readonly status: number; readonly reason: string } {
  const subsystem = target.subsystems.get(nqn);
  if (subsystem === undefined || subsystem.deleting) {
    return { status: NO_SUCH_SUBSYSTEM, reason: `no subsystem ${nqn}` };
  }
  if (!isAllowed(subsystem, host)) {
    return { status: NOT_ALLOWED, reason: `host ${host} is not allowed to connect to ${nqn}` };
  }
  const at = subsystem.listeners.find(
    (one) => address === undefined || isAt(one.address, address),
  )?.address;
  if (at === undefined) {
    const where = address === undefined ? "" : ` at ${address.traddr}:${address.trsvcid}`;
    return { status: NOT_ALLOWED, reason: `${nqn} has no listener${where}` };
  }
  const controller: HostController = {
    cntlid: target.nextCntlid(),
    hostNqn: host,
    address: at,
    ...listener,
  };
  subsystem.controllers.push(controller);
  target.hostConnections += 1;
  return controller;
}

export function isAllowed({ allowAnyHost, hosts }: Subsystem, host: string): boolean {
  return allowAnyHost || hosts.includes(host);
}

export function isAt(
  listener: Address,
  { traddr, trsvcid }: { readonly traddr: string; readonly trsvcid: string },
): boolean {
  const anywhere = listener.traddr === "0.0.0.0" || listener.traddr === "::";
  return listener.trsvcid === trsvcid && (anywhere || listener.traddr === traddr);
}

/** Ends connections of a subsystem; each host is told. */
export function dropHosts(
  { controllers }: Subsystem,
  isDropped: (controller: HostController) => boolean,
): void {
  const dropped = controllers.filter(isDropped);
  for (const one of dropped) controllers.splice(controllers.indexOf(one), 1);
  for (const one of dropped) one.onDisconnected?.();
}

/** Tells every connected host that a namespace of the subsystem came, went or changed its size. */
export function announceNamespaces({ controllers }: Subsystem): void {
  for (const one of controllers) one.onNamespaceChanged?.();
}
