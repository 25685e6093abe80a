// A wipe of a disk: what an operator asked to have destroyed, and whether what is there now is that. Pure.
import { evidenceOf, factOf, fingerprint, type Evidence } from "./evidence.ts";
import { isUse } from "./disk-claim.ts";
import { Refusal } from "./errors.ts";

export type Wipe = {
  readonly requestedTime: Date;
  /** What was seen of the disk within the call: what the operator agreed to lose. */
  readonly evidence: readonly Evidence[];
  readonly reason: string;
  /** Recorded before the first block is written; undefined: nothing was. */
  readonly begun: WipeBegun | undefined;
};

export type WipeBegun = {
  readonly time: Date;
  /** Addresses of the functions that the agent may have left without a driver since. */
  readonly functions: readonly string[];
};

/** Where the kernel shows a disk that is to be wiped, and what goes away with it for a moment. */
export type WipePlace = {
  /** Addresses of the functions that show it. */
  readonly functions: readonly string[];
  /** The kernel shows partitions: it has to let the functions go, so that it reads the table again. */
  readonly partitions: boolean;
  /** The other namespaces of these functions. */
  readonly siblings: readonly { readonly serial: string; readonly nsid: number }[];
};

/** Nothing else is to become of a disk before its wipe has ended. Throws a Refusal. */
export function refuseWiping({
  id,
  wipe,
}: {
  readonly id: string;
  readonly wipe: Wipe | undefined;
}): void {
  if (wipe === undefined) return;
  throw new Refusal("IN_USE", `disk ${id} is being wiped: repeat the call once that is done`);
}

type Disk = { readonly serial: string; readonly nsid: number };

/** What an operator has to write, so that no disk is wiped by a slip. */
export function wipeConfirmation(serial: string): string {
  return `destroy all data on ${serial}`;
}

/**
 * Whether a disk is as it was when the wipe was asked for. Once it has begun, what is left of that is
 * enough: blocks are zeroed in an order in which facts go and none comes.
 */
export function isAsAsked({ evidence, begun }: Wipe, found: readonly Evidence[]): boolean {
  if (begun === undefined) return fingerprint(found) === fingerprint(evidence);
  const asked = new Set(evidence.map(factOf));
  return found.every((item) => asked.has(factOf(item)));
}

/** The evidence that forbids wiping a disk at its place: somebody uses it, or nobody can say. */
export function againstWiping(
  disk: Disk,
  evidence: readonly Evidence[],
  place: WipePlace,
): readonly Evidence[] {
  const isUsed = (item: Evidence) => isUse(item) || item.kind === "UNREADABLE";
  const own = evidenceOf(disk, evidence).filter(isUsed);
  const around = [disk.serial, ...place.functions];
  const ofPlace = evidence.filter(({ kind, subject }) => {
    switch (kind) {
      case "DUPLICATE_SERIAL":
        return true;
      case "NOT_READY":
      case "UNREADABLE":
        return around.includes(subject);
      case "DRIVER_OVERRIDE":
        return place.partitions && around.includes(subject);
      default:
        return false;
    }
  });
  const siblings = place.partitions ? place.siblings : [];
  return [
    ...own,
    ...ofPlace,
    ...siblings.flatMap((one) => evidenceOf(one, evidence).filter(isUsed)),
  ];
}
