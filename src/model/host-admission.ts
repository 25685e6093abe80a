// Admission of intents about hosts: AllowHost, RevokeHost and ConfirmHosts. Pure, as admission.ts.
import { invalidFields, Refusal, type FieldViolation } from "./errors.ts";
import { newIntent, ownVolume, refuseDeleting, type Intent } from "./intent.ts";
import { ANY_HOST, everyHost, type LvolRow } from "./lvol.ts";

export type HostChange = {
  readonly kind: "allowHost" | "revokeHost";
  readonly host: string;
};

/** Hosts of one volume that may connect again; none: all of them. */
export type HostConfirmation = { readonly id: string; readonly hosts: readonly string[] };

export type ConfirmHosts = {
  readonly kind: "confirmHosts";
  readonly confirmations: readonly HostConfirmation[];
  readonly reason: string;
};

/** The part of the admission state that these intents see and change. */
export type HostState = {
  readonly policy: { readonly nodeId: string };
  /** Most hosts of one volume. */
  readonly limits: { readonly hosts: number };
  readonly now: Date;
  readonly revision: bigint;
  readonly lvols: Map<string, LvolRow>;
  readonly snapshots: ReadonlyMap<string, unknown>;
};

export function changeHost(state: HostState, mutation: Intent & HostChange): LvolRow {
  const row = ownVolume(state, mutation.id);
  const { host } = mutation;
  const waits = row.unconfirmedHosts.includes(host);
  const asWanted =
    mutation.kind === "allowHost" ? row.hosts.includes(host) && !waits : !row.hosts.includes(host);
  if (asWanted && !row.unconfirmed) return row;
  refuseDeleting(row);
  const others = row.hosts.filter((other) => other !== host);
  if (mutation.kind === "allowHost" && others.length >= state.limits.hosts) {
    const used = `${others.length} hosts, limit ${state.limits.hosts}`;
    throw new Refusal("HOST_LIMIT", `volume ${row.id} has ${used}`, {
      quota: [{ subject: `lvols/${row.id}/hosts`, description: used }],
    });
  }
  const hosts = mutation.kind === "revokeHost" ? others : [...others, host].toSorted();
  return write(state, row, mutation, {
    hosts,
    // The caller decides which hosts may connect, so from now on the export follows the row.
    unconfirmed: false,
    unconfirmedHosts: row.unconfirmedHosts.filter((other) => other !== host),
  });
}

/** All or none; returns how many hosts were unconfirmed and are not any more. */
export function confirmHosts(state: HostState, mutation: Intent & ConfirmHosts): number {
  const { confirmations } = mutation;
  const rows = confirmations.map(({ id }) => ownVolume(state, id));
  const faults = confirmations.flatMap(({ hosts }, index): readonly FieldViolation[] => {
    const row = rows[index];
    const strangers = hosts.filter((host) => row && !everyHost(row).includes(host));
    return strangers.map((host) => ({
      field: `confirmations[${index}].host_nqns`,
      description: `${hostName(host)} is not allowed by volume ${row?.id}: call AllowHost`,
    }));
  });
  if (faults.length > 0) throw invalidFields(faults);
  let confirmed = 0;
  for (const { id, hosts } of confirmations) {
    const row = ownVolume(state, id);
    const { unconfirmedHosts: before } = row;
    const after = hosts.length === 0 ? [] : before.filter((host) => !hosts.includes(host));
    if (after.length === before.length) continue;
    confirmed += before.length - after.length;
    write(state, row, mutation, { unconfirmedHosts: after });
  }
  return confirmed;
}

function hostName(host: string): string {
  return host === ANY_HOST ? `"${ANY_HOST}" (any host)` : host;
}

function write(
  state: HostState,
  row: LvolRow,
  intent: Intent,
  change: Pick<LvolRow, "unconfirmedHosts"> & Partial<LvolRow>,
): LvolRow {
  const changed = { ...row, ...newIntent(state, row, intent), failed: false, ...change };
  state.lvols.set(row.id, changed);
  return changed;
}
