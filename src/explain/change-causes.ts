// The causes for which a change of a volume that is in use is not carried out, as lvol-causes.ts.
import { QOS_KEY, RESIZE_KEY, SET_PARENT_KEY } from "../model/export-parts.ts";
import { formatBytes } from "../model/bytes.ts";
import { sameLimits } from "../model/lvol.ts";
import { NO_SPACE, type VolumeView } from "../model/lvol-state.ts";
import { limitsText, realLimits } from "../model/qos.ts";
import type { Cause } from "./explanation.ts";

type Facts = { readonly view: VolumeView };

/** A thick volume that the disk has too few free clusters for; a thin one grows without any. */
export function noRoomToGrow(
  { view, freeClusters }: Facts & { readonly freeClusters: bigint | undefined },
  found: {
    readonly shortage: string;
    readonly room: string;
    readonly cluster: bigint;
    readonly free: bigint;
  },
): Cause | undefined {
  const { row, observed, failures } = view;
  const { shortage, room, cluster, free } = found;
  if (observed.lvol?.kind !== "present" || observed.lvol.thin) return undefined;
  const more = (row.promisedBytes - observed.lvol.sizeBytes) / cluster;
  if (more <= 0n) return undefined;
  // A count that is not of now says less than what the target answered.
  const refused = failures[RESIZE_KEY]?.message.includes(NO_SPACE) === true;
  if (freeClusters === undefined ? !refused : free >= more) return undefined;
  return {
    cause:
      `${shortage}, and to grow to ${formatBytes(row.promisedBytes)} the thick volume needs ` +
      `${more} more (${formatBytes(more * cluster)})`,
    cure: `${room}; the volume then grows by itself, and is in use meanwhile`,
    waits: "waits for room on the disk",
  };
}

export function oldTargetCause({ view }: Facts): Cause | undefined {
  const { row, observed, failures } = view;
  if (observed.lvol?.kind !== "present") return undefined;
  const tooOld = (key: string) => {
    const message = failures[key]?.message;
    return message?.startsWith("TARGET_TOO_OLD") === true ? message : undefined;
  };
  const waits = "waits for another release of the target";
  const cure = "upgrade the SPDK target to 24.05 or newer";
  const clone = row.cloning ? tooOld(SET_PARENT_KEY) : undefined;
  if (clone !== undefined) {
    const cause = `it is not made a clone: ${clone}`;
    return { cause, cure: `${cure}: the clone is then made by itself`, waits };
  }
  const growth = tooOld(RESIZE_KEY);
  if (growth === undefined || observed.lvol.sizeBytes >= row.promisedBytes) return undefined;
  return {
    cause: `it has a snapshot, and is not grown: ${growth}`,
    cure: `${cure}: the volume then grows by itself`,
    waits,
  };
}

export function limitsCause({ view }: Facts): Cause | undefined {
  const { row, observed, failures } = view;
  const failure = failures[QOS_KEY];
  if (failure === undefined || row.deleteRequestedTime !== undefined) return undefined;
  if (observed.lvol?.kind !== "present") return undefined;
  const wanted = realLimits(row.qos);
  if (sameLimits(observed.lvol.limits, wanted)) return undefined;
  return {
    cause:
      `its limits are not in force (wanted: ${limitsText(wanted)}; in force: ` +
      `${limitsText(observed.lvol.limits)}): ${failure.message}`,
    cure:
      `see the target's log; call UpdateLvol {"lvolId": "${row.id}", "qos": {...}} with limits ` +
      `that it takes. Its hosts are served meanwhile`,
    waits: "waits for the next try",
  };
}
