// Compares the hosts of the rows with those that the live target lists. The target did not restart since
// the newer database was lost, so it lists nobody whose revocation was carried out. Pure.
import { ANY_HOST, everyHost, type LvolRow } from "../model/lvol.ts";
import type { FoundSubsystem } from "../model/found-lvol.ts";

export type ComparedHosts = {
  readonly lvolId: string;
  /** Unconfirmed in the row, and listed by the target. */
  readonly listed: readonly string[];
  /** Unconfirmed in the row, and not listed. */
  readonly notListed: readonly string[];
  /** Listed by the target and not in the row. */
  readonly onlyListed: readonly string[];
  /** The export is left as it is; otherwise those that only the target lists are removed. */
  readonly kept: boolean;
};

/** @param older every host of the rows is about to be unconfirmed */
export function compareHosts(
  rows: readonly LvolRow[],
  subsystems: readonly FoundSubsystem[],
  older: boolean,
): readonly ComparedHosts[] {
  const byNqn = new Map(subsystems.map((subsystem) => [subsystem.nqn, subsystem]));
  return rows
    .filter(({ deleteTime }) => deleteTime === undefined)
    .map((row) => {
      const found = byNqn.get(row.nqn);
      const ours = found?.serialNumber === row.serialNumber ? found : undefined;
      const onTarget = ours === undefined ? [] : everyHost(ours);
      const waiting = older ? everyHost(row) : row.unconfirmedHosts;
      return {
        lvolId: row.id,
        listed: waiting.filter((host) => onTarget.includes(host)),
        notListed: waiting.filter((host) => !onTarget.includes(host)),
        onlyListed: onTarget.filter((host) => !everyHost(row).includes(host)),
        kept: row.unconfirmed,
      };
    })
    .filter(({ listed, notListed, onlyListed }) => {
      return listed.length + notListed.length + onlyListed.length > 0;
    });
}

export function comparedText({ lvolId, ...hosts }: ComparedHosts, keepListed: boolean): string {
  const part = (label: string, names: readonly string[]) =>
    names.length === 0 ? [] : [`${label}: ${names.map(hostName).join(", ")}`];
  const { listed, notListed, onlyListed, kept } = hosts;
  return [
    `hosts   ${lvolId}`,
    ...part(keepListed ? "confirmed" : "unconfirmed, on the target", listed),
    ...part("unconfirmed", notListed),
    ...part(`only on the target, ${kept ? "kept" : "removed"}`, onlyListed),
  ].join("  ");
}

function hostName(host: string): string {
  return host === ANY_HOST ? "any host" : host;
}
