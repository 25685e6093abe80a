// Why a disk that was to be wiped still has something on it.
import type { DiskRow } from "../model/disk.ts";
import { instant, type Cause } from "./explanation.ts";

/** What is on it is to be destroyed, and is there still; or the wipe ended without that. */
export function wipeCause(
  { wipe, wipeEnded, lastError }: Pick<DiskRow, "wipe" | "wipeEnded" | "lastError">,
  {
    onTarget,
    inKernel,
  }: {
    readonly onTarget: object | undefined;
    readonly inKernel: { readonly evidence: readonly unknown[] | undefined } | undefined;
  },
): Cause | undefined {
  if (onTarget !== undefined) return undefined;
  if (wipe !== undefined) {
    const error = lastError === undefined ? "" : `; the last attempt failed: ${lastError}`;
    return {
      cause: `it is being wiped, as was asked for at ${instant(wipe.requestedTime)}${error}`,
      cure: "end what keeps it from being wiped, or wait: it then takes AdmitDisk",
      waits: "waits until it can be wiped",
    };
  }
  if (wipeEnded === undefined || (inKernel?.evidence ?? []).length === 0) return undefined;
  return {
    cause: `a wipe of it ended at ${wipeEnded}`,
    cure: "look at its evidence, and call WipeDisk again with the fingerprint of now",
    waits: "waits for a new intent",
  };
}
