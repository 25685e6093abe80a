// When the export of a volume that is being deleted may end. A host that is entitled to a volume is not cut
// off because the target restarts: its export comes back, and ends only once it is known that no host is
// connected or about to connect again. Pure.
import { listenKey } from "../../model/export-parts.ts";
import { wasRefused, type StepFailures } from "../../model/failure.ts";
import type { ListenAddress, LvolRow, ObservedVolume } from "../../model/lvol.ts";

export type UnexportFacts = {
  readonly incarnation: string | undefined;
  readonly reconnectGraceMs: number;
  readonly listenAddresses: readonly ListenAddress[];
  readonly failures: StepFailures;
  /** Its disk is to be released. */
  readonly releasing: boolean;
  readonly now: Date;
  /** Of the clock that ObservedVolume.listeningSinceMs is read from. */
  readonly monotonicMs: number;
};

export type Unexport = {
  readonly restoreUntilUnexported: boolean;
  readonly unexportDue: Date | undefined;
  /** Hosts had time to come back since the export was reachable in this incarnation. */
  readonly reconnectGraceOver: boolean;
};

export function unexport(row: LvolRow, observed: ObservedVolume, facts: UnexportFacts): Unexport {
  const { reconnectGraceMs, now, monotonicMs } = facts;
  const { listeningSinceMs } = observed;
  const leftMs =
    listeningSinceMs === undefined
      ? undefined
      : reconnectGraceMs - (monotonicMs - listeningSinceMs);
  const reconnectGraceOver = leftMs !== undefined && leftMs <= 0;
  if (reconnectGraceOver || mayEndAtOnce(row, observed, facts)) {
    return { restoreUntilUnexported: false, unexportDue: undefined, reconnectGraceOver };
  }
  const unexportDue = leftMs === undefined ? undefined : new Date(now.getTime() + leftMs);
  return { restoreUntilUnexported: true, unexportDue, reconnectGraceOver };
}

/**
 * Unknown counts as connected: otherwise the export has to be there in each incarnation of the target,
 * reachable and without a connection, for as long as hosts take to come back.
 */
function mayEndAtOnce(
  row: LvolRow,
  observed: ObservedVolume,
  { incarnation, listenAddresses, failures, releasing }: UnexportFacts,
): boolean {
  if (row.deleteRequestedTime === undefined || row.deleteForced || releasing) return true;
  // Never reachable, or its end was committed, or there is nothing left to reach.
  if (!row.exported || row.unexportedTime !== undefined || observed.exportEnded) return true;
  if (observed.lvol?.kind === "absent" || row.unconfirmed) return true;
  if (row.connectedIncarnation === incarnation && row.connectedHosts?.length === 0) return true;
  // No host can reach it at any of its addresses.
  return (
    observed.listeningSinceMs === undefined &&
    listenAddresses.every((address) => wasRefused(failures, listenKey(address)))
  );
}
