// How many exports that were there before are back, in this incarnation of the target. Exports that are
// changed or made for the first time do not count, nor what failed, which its own object shows.
import type { LvolRow } from "../model/lvol.ts";
import { confirmedHosts } from "../model/lvol.ts";
import type { Rows } from "../store/rows.ts";
import type { Observed } from "./target/observed.ts";

export type Restored = {
  readonly exports: number;
  readonly exportsBack: number;
  readonly hosts: number;
  readonly hostsBack: number;
};

/** Of the volumes whose stores are loaded. */
export function restored({ rows, observed }: { rows: Rows; observed: Observed }): Restored {
  let [exports, exportsBack, hosts, hostsBack] = [0, 0, 0, 0];
  for (const row of rows.lvols()) {
    if (!wasExported(row) || observed.disk(row.diskId)?.store === undefined) continue;
    const { subsystem } = observed.volume(row.id);
    const wanted = confirmedHosts(row).hosts;
    const is = subsystem?.kind === "present" ? subsystem : undefined;
    const letIn = is === undefined ? [] : wanted.filter((host) => is.hosts.includes(host));
    exports += 1;
    hosts += wanted.length;
    hostsBack += letIn.length;
    if (is !== undefined && is.listeners.length > 0 && letIn.length === wanted.length) {
      exportsBack += 1;
    }
  }
  return { exports, exportsBack, hosts, hostsBack };
}

function wasExported(row: LvolRow): boolean {
  const settled = row.observedGeneration === row.generation && row.lastError === undefined;
  return row.exported && settled && !row.unconfirmed && row.deleteRequestedTime === undefined;
}
