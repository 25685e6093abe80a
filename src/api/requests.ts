// Validation of requests: returns them with defaults resolved, or throws a Refusal with every
// violation.
import type { HostConfirmation } from "../model/host-admission.ts";
import { ANY_HOST, type CreationRequest } from "../model/lvol.ts";
import type {
  AllowHostRequest,
  ConfirmHostsRequest,
  DeleteRequest,
  ExplainRequest,
  GetExportRequest,
  ListExportsRequest,
  ListLvolsRequest,
  ProvisionLvolRequest,
  AdoptOrphanRequest,
  PurgeOrphanRequest,
  ResolveOutcomeRequest,
} from "../gen/storagenode/v1/storage_node.ts";
import type { LvolSpec } from "../gen/storagenode/v1/lvol.ts";
import type { Purge } from "../model/orphan.ts";
import { MAX_CONFIRMATIONS } from "../limits.ts";
import { limits } from "./change-requests.ts";
import { Fields } from "./fields.ts";
import type { PageRequest } from "./page.ts";
import { snapshotId } from "./snapshot-requests.ts";

export type Provision = {
  readonly id: string;
  readonly request: CreationRequest;
  readonly labels: Readonly<Record<string, string>>;
  readonly validateOnly: boolean;
  readonly waitMs: number;
};

export function provision(message: ProvisionLvolRequest): Provision {
  const fields = new Fields();
  const spec = fields.present("spec", message.spec);
  const checked = {
    id: fields.uuid("id", message.id),
    waitMs: fields.waitMs("wait_timeout", message.waitTimeout),
    validateOnly: message.validateOnly,
    ...(spec === undefined ? EMPTY_SPEC : checkSpec(fields, spec)),
  };
  fields.done();
  return checked;
}

const EMPTY_SPEC = {
  request: {
    sizeBytes: 0n,
    thin: true,
    diskId: undefined,
    sourceSnapshotId: undefined,
    hosts: [],
    allowAnyHost: false,
    qos: undefined,
  },
  labels: {},
} as const;

function checkSpec(fields: Fields, spec: LvolSpec): Pick<Provision, "request" | "labels"> {
  const request = {
    sizeBytes: fields.size("spec.size_bytes", spec.sizeBytes),
    thin: fields.known("spec.provisioning", spec.provisioning) !== "PROVISIONING_THICK",
    diskId: fields.optionalUuid("spec.disk_id", spec.diskId),
    sourceSnapshotId: fields.optionalUuid("spec.source_snapshot_id", spec.sourceSnapshotId),
    hosts: fields.hosts("spec.allowed_host_nqns", spec.allowedHostNqns),
    allowAnyHost: spec.allowAnyHost,
    qos: limits(fields, "spec.qos", spec.qos),
  };
  return { request, labels: fields.labels("spec.labels", spec.labels) };
}

export function lvolId(id: string): string {
  const fields = new Fields();
  return fields.doneWith(fields.uuid("lvol_id", id));
}

export function diskId(id: string): string {
  const fields = new Fields();
  return fields.doneWith(fields.uuid("disk_id", id));
}

export function paging(message: {
  readonly pageSize: number;
  readonly pageToken: string;
}): PageRequest {
  const fields = new Fields();
  return fields.doneWith(fields.paging(message));
}

/** Of objects that are listed by a name of any form. */
export function pagingByName(message: {
  readonly pageSize: number;
  readonly pageToken: string;
}): PageRequest {
  const fields = new Fields();
  return fields.doneWith(fields.paging(message, () => true));
}

type PurgeRequest = Purge extends infer One
  ? One extends Purge
    ? Omit<One, "actor">
    : never
  : never;

export function purge({ kind, name, uuid, reason }: PurgeOrphanRequest): PurgeRequest {
  const fields = new Fields();
  if (name === "") fields.violation("name", "must be set to the orphan's name in ListOrphans");
  fields.text("name", name);
  fields.reason("reason", reason);
  if (kind === "lvol") {
    return fields.doneWith({ kind, name, uuid: fields.uuid("uuid", uuid), reason });
  }
  if (kind !== "subsystem") fields.violation("kind", "must be lvol or subsystem");
  if (uuid !== "") fields.violation("uuid", "must be empty: only an lvol has one");
  return fields.doneWith({ kind: "subsystem", name, reason });
}

export function adoption({ uuid, id }: AdoptOrphanRequest): {
  readonly uuid: string;
  readonly id: string;
} {
  const fields = new Fields();
  return fields.doneWith({ uuid: fields.uuid("uuid", uuid), id: fields.uuid("id", id) });
}

export function listLvols(
  message: ListLvolsRequest,
): PageRequest & { readonly diskId: string | undefined; readonly showDeleted: boolean } {
  const fields = new Fields();
  return fields.doneWith({
    ...fields.paging(message),
    diskId: fields.optionalUuid("disk_id", message.diskId),
    showDeleted: message.showDeleted,
  });
}

export function listExports(
  message: ListExportsRequest,
): PageRequest & { readonly hostNqn: string | undefined } {
  const fields = new Fields();
  return fields.doneWith({
    ...fields.paging(message),
    hostNqn: fields.optionalNqn("host_nqn", message.hostNqn),
  });
}

export type HostRequest = AllowHostRequest;

/** A host that an earlier version accepted can be revoked, whatever its name is. */
export function hostChange(
  kind: "allowHost" | "revokeHost",
  message: HostRequest,
): {
  readonly id: string;
  readonly host: string;
  readonly waitMs: number;
} {
  const fields = new Fields();
  const { hostNqn } = message;
  return fields.doneWith({
    id: fields.uuid("lvol_id", message.lvolId),
    host:
      kind === "allowHost"
        ? fields.nqn("host_nqn", hostNqn)
        : fields.requiredText("host_nqn", hostNqn),
    waitMs: fields.waitMs("wait_timeout", message.waitTimeout),
  });
}

export function confirmHosts(message: ConfirmHostsRequest): {
  readonly confirmations: readonly HostConfirmation[];
  readonly reason: string;
} {
  const fields = new Fields();
  const { confirmations, reason } = message;
  if (confirmations.length === 0) fields.violation("confirmations", "must not be empty");
  if (confirmations.length > MAX_CONFIRMATIONS) {
    const description = `has ${confirmations.length} entries, the limit is ${MAX_CONFIRMATIONS}`;
    fields.violation("confirmations", description);
  }
  fields.reason("reason", reason);
  const checked = confirmations.slice(0, MAX_CONFIRMATIONS).map(({ lvolId, hostNqns }, index) => {
    const field = `confirmations[${index}]`;
    fields.hosts(
      `${field}.host_nqns`,
      hostNqns.filter((host) => host !== ANY_HOST),
    );
    return { id: fields.uuid(`${field}.lvol_id`, lvolId), hosts: hostNqns };
  });
  return fields.doneWith({ confirmations: checked, reason });
}

export type Deletion = {
  readonly kind: "lvol" | "snapshot";
  readonly id: string;
  readonly waitMs: number;
  readonly force: boolean;
  readonly reason: string;
  readonly deferred: boolean;
};

export function deletion(message: DeleteRequest): Deletion {
  const fields = new Fields();
  const { target } = message;
  if (message.force && message.reason.trim() === "") {
    fields.violation("reason", "must be set when force is set");
  }
  fields.text("reason", message.reason);
  const waitMs = fields.waitMs("wait_timeout", message.waitTimeout);
  const id =
    target === undefined
      ? fields.violation("target", "lvol_id or snapshot_id must be set")
      : fields.uuid(target.$case === "lvolId" ? "lvol_id" : "snapshot_id", target.value);
  const kind = target?.$case === "snapshotId" ? "snapshot" : "lvol";
  if (kind === "lvol" && message.deferred) {
    fields.violation("deferred", "is for snapshots; a volume is deleted once its hosts are gone");
  }
  if (kind === "snapshot" && message.force) {
    fields.violation("force", "is for volumes; delete the clones of the snapshot first");
  }
  const { force, reason, deferred } = message;
  return fields.doneWith({ kind, id: id ?? "", waitMs, force, reason, deferred });
}

export type Explained = { readonly kind: "lvol" | "snapshot" | "disk"; readonly id: string };

export function explain({ target }: ExplainRequest): Explained {
  const fields = new Fields();
  if (target === undefined) {
    fields.violation("target", "lvol_id, snapshot_id or disk_id must be set");
    return fields.doneWith({ kind: "lvol", id: "" });
  }
  switch (target.$case) {
    case "lvolId":
      return { kind: "lvol", id: lvolId(target.value) };
    case "diskId":
      return { kind: "disk", id: diskId(target.value) };
    case "snapshotId":
      return { kind: "snapshot", id: snapshotId(target.value) };
  }
}

export type ExportTarget =
  { readonly kind: "id"; readonly id: string } | { readonly kind: "nqn"; readonly nqn: string };

export function getExport(message: GetExportRequest): {
  readonly target: ExportTarget;
  readonly hostNqn: string | undefined;
} {
  const fields = new Fields();
  const { target } = message;
  const hostNqn = fields.optionalNqn("host_nqn", message.hostNqn);
  if (target === undefined) fields.violation("target", "lvol_id or nqn must be set");
  const found: ExportTarget =
    target?.$case === "nqn"
      ? { kind: "nqn", nqn: fields.nqn("nqn", target.value) }
      : { kind: "id", id: target === undefined ? "" : fields.uuid("lvol_id", target.value) };
  return fields.doneWith({ target: found, hostNqn });
}

export function resolveOutcome(message: ResolveOutcomeRequest): {
  readonly id: string;
  readonly reason: string;
} {
  const fields = new Fields();
  const id = fields.uuid("object_id", message.objectId);
  return fields.doneWith({ id, reason: fields.reason("reason", message.reason) });
}
