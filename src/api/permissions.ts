// Which role may call which method. A method that is not named here is refused; the compiler wants every
// RPC of the service named.
import { StorageNodeService } from "../gen/storagenode/v1/storage_node.ts";
import type { Caller, Role } from "../model/caller.ts";
import { Refusal } from "../model/errors.ts";
import type { StorageNodeHandlers } from "./call.ts";

const OPERATOR = ["operator"] as const;
const SCHEDULER = ["scheduler", "operator"] as const;
/** Figures and health, without what belongs to a tenant. */
const MONITOR = ["scheduler", "operator", "monitor"] as const;

const ROLES_OF_METHOD: {
  readonly [Method in keyof StorageNodeHandlers]: readonly Role[];
} = {
  provisionLvol: SCHEDULER,
  resizeLvol: SCHEDULER,
  snapshot: SCHEDULER,
  delete: SCHEDULER,
  updateLvol: SCHEDULER,
  allowHost: SCHEDULER,
  revokeHost: SCHEDULER,
  getLvol: SCHEDULER,
  listLvols: SCHEDULER,
  getSnapshot: SCHEDULER,
  listSnapshots: SCHEDULER,
  listExports: SCHEDULER,
  watch: SCHEDULER,
  listEvents: SCHEDULER,
  explain: SCHEDULER,
  // Of its own hosts only.
  getExport: ["scheduler", "operator", "compute"],
  getHealth: MONITOR,
  getNode: MONITOR,
  getDisk: MONITOR,
  listDisks: MONITOR,
  listControllers: MONITOR,
  streamIostat: MONITOR,
  cordon: OPERATOR,
  uncordon: OPERATOR,
  admitDisk: OPERATOR,
  adoptDisk: OPERATOR,
  releaseDisk: OPERATOR,
  wipeDisk: OPERATOR,
  locateDisk: OPERATOR,
  zeroFreeSpace: OPERATOR,
  listOrphans: OPERATOR,
  adoptOrphan: OPERATOR,
  purgeOrphan: OPERATOR,
  resolveOutcome: OPERATOR,
  confirmHosts: OPERATOR,
};

/** Of the metrics on the HTTP port. */
const METRICS_ROLES = ["monitor", "operator"] as const;

/** Probes know nothing but whether the node is ready, which anybody may ask. */
const PUBLIC = /^\/grpc\.health\.v1\.Health\//;
/** What the API looks like. */
const ANY_ROLE = /^\/grpc\.reflection\./;

const byPath: ReadonlyMap<string, readonly Role[]> = new Map(
  Object.entries(StorageNodeService).map(([name, { path }]) => [path, rolesOf(name)]),
);

/** path: `/PACKAGE.SERVICE/METHOD`. */
export function isPublic(path: string): boolean {
  return PUBLIC.test(path);
}

/** Throws a Refusal. */
export function refuseUnlessPermitted(path: string, caller: Caller): void {
  if (ANY_ROLE.test(path)) return;
  refuseWithoutRole(byPath.get(path) ?? [], path.slice(path.lastIndexOf("/") + 1), caller);
}

/** Throws a Refusal. */
export function refuseMetrics(caller: Caller): void {
  refuseWithoutRole(METRICS_ROLES, "/metrics", caller);
}

function refuseWithoutRole(needed: readonly Role[], what: string, { name, roles }: Caller): void {
  if (roles.some((role) => needed.includes(role))) return;
  const message = `${what} needs the role ${needed.join(" or ")}; ${name} is ${roles.join(", ")}`;
  throw new Refusal("ROLE_REQUIRED", message, {
    metadata: { needed: needed.join(","), roles: roles.join(",") },
  });
}

function rolesOf(name: string): readonly Role[] {
  return Object.entries(ROLES_OF_METHOD).find(([method]) => method === name)?.[1] ?? [];
}
