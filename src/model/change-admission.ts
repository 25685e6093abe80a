// Admission of intents that change a volume: ResizeLvol and UpdateLvol. Pure, as admission.ts.
import { isDeepStrictEqual } from "node:util";
import { alignUp } from "./bytes.ts";
import type { DiskRow } from "./disk.ts";
import { Refusal } from "./errors.ts";
import { newIntent, ownVolume, refuseDeleting, type Intent } from "./intent.ts";
import { NO_LIMITS, sameLimits, type LvolRow, type QosLimits } from "./lvol.ts";
import type { PendingOp } from "./pending-op.ts";
import { bytesLeft, notZeroed, tooLarge, unhealthy, type PlacementPolicy } from "./placement.ts";

export type Resize = {
  readonly kind: "resize";
  readonly sizeBytes: bigint;
  /** Allocated bytes of orphans by disk, as observed; none: not known. */
  readonly orphanBytes?: ReadonlyMap<string, bigint>;
  /** Announces the change, if it can be sent as soon as the intent is committed. */
  readonly pendingOp?: PendingOp | undefined;
};

/** Undefined parts stay as they are. */
export type Update = {
  readonly kind: "update";
  readonly qos: QosLimits | undefined;
  readonly labels: Readonly<Record<string, string>> | undefined;
  /** Of the volume as the caller has read it; undefined: whatever it is. */
  readonly etag: string | undefined;
};

/** The part of the admission state that these intents see and change. */
export type ChangeState = {
  readonly policy: Omit<PlacementPolicy, "discardGuard"> & { readonly nodeId: string };
  readonly now: Date;
  readonly revision: bigint;
  readonly lvols: Map<string, LvolRow>;
  readonly snapshots: ReadonlyMap<string, unknown>;
  readonly disks: Map<string, DiskRow>;
};

/** Changes with every intent. */
export function etagOf({ generation }: { readonly generation: bigint }): string {
  return generation.toString();
}

/** The wanted size only rises: of two resizes that are asked for at once the larger one wins. */
export function resize(state: ChangeState, mutation: Intent & Resize): LvolRow {
  const row = ownVolume(state, mutation.id);
  refuseDeleting(row);
  const { sizeBytes } = mutation;
  if (sizeBytes === row.sizeBytes) return row;
  if (sizeBytes < row.sizeBytes) throw shrinks(row, sizeBytes);
  const disk = state.disks.get(row.diskId);
  if (disk?.clusterBytes === undefined) {
    throw new Refusal("DISK_NOT_UP", `disk ${row.diskId} has no lvstore of this node`);
  }
  const promisedBytes = alignUp(sizeBytes, disk.clusterBytes);
  const addedBytes = promisedBytes - row.promisedBytes;
  if (addedBytes > 0n) {
    const policy = { ...state.policy, orphanBytes: mutation.orphanBytes };
    refuseGrowth(disk, policy, { row, sizeBytes, promisedBytes, addedBytes });
    state.disks.set(disk.id, { ...disk, promisedBytes: disk.promisedBytes + addedBytes });
  }
  return write(state, row, mutation, {
    sizeBytes,
    promisedBytes: addedBytes > 0n ? promisedBytes : row.promisedBytes,
    pendingOp: row.pendingOp ?? (addedBytes > 0n ? mutation.pendingOp : undefined),
  });
}

function shrinks({ id, sizeBytes: present }: LvolRow, asked: bigint): Refusal {
  const message = `volume ${id} has ${present} bytes, and ${asked} were asked for: volumes only grow`;
  return new Refusal("SHRINK_REFUSED", message, {
    metadata: { present_bytes: present.toString(), asked_bytes: asked.toString() },
    fields: [{ field: "size_bytes", description: `must be at least ${present}` }],
  });
}

/** A cordoned disk takes no new volumes; those that it has may grow, unless it is failing. */
function refuseGrowth(
  disk: DiskRow,
  policy: Omit<PlacementPolicy, "discardGuard">,
  asked: {
    readonly row: LvolRow;
    readonly sizeBytes: bigint;
    readonly promisedBytes: bigint;
    readonly addedBytes: bigint;
  },
): void {
  const { row, sizeBytes, promisedBytes, addedBytes } = asked;
  const totalBytes = (disk.totalClusters ?? 0n) * (disk.clusterBytes ?? 0n);
  if (promisedBytes > totalBytes) throw tooLarge("size_bytes", sizeBytes, [{ disk }]);
  const refused = unhealthy(disk) ?? notZeroed(disk, policy);
  if (refused !== undefined) throw refused;
  const free = bytesLeft(disk, policy, row.thin);
  if (addedBytes <= free) return;
  const left = free > 0n ? free : 0n;
  const message =
    `disk ${disk.id} has no room for ${addedBytes} more bytes of volume ${row.id}, ` +
    `${left} left to promise`;
  const description = `asked ${addedBytes} more bytes, ${left} bytes left`;
  throw new Refusal("NO_CAPACITY", message, {
    metadata: { asked_bytes: addedBytes.toString(), left_bytes: left.toString() },
    quota: [{ subject: `disks/${disk.id}`, description }],
  });
}

/**
 * What is as asked already is answered without a look at the etag: a call whose answer was lost can be
 * repeated, and overwrites nothing.
 */
export function update(state: ChangeState, mutation: Intent & Update): LvolRow {
  const row = ownVolume(state, mutation.id);
  refuseDeleting(row);
  const { qos = row.qos, labels = row.labels, etag } = mutation;
  const same = sameLimits(qos ?? NO_LIMITS, row.qos ?? NO_LIMITS);
  if (same && isDeepStrictEqual({ ...labels }, { ...row.labels })) return row;
  if (etag !== undefined && etag !== etagOf(row)) {
    const message = `volume ${row.id} was changed since: its etag is ${etagOf(row)}, not ${etag}; read it again`;
    throw new Refusal("ETAG_MISMATCH", message, { metadata: { etag: etagOf(row) } });
  }
  const unlimited = sameLimits(qos ?? NO_LIMITS, NO_LIMITS);
  return write(state, row, mutation, { qos: unlimited ? undefined : qos, labels });
}

function write(
  state: ChangeState,
  row: LvolRow,
  intent: Intent,
  change: Partial<Pick<LvolRow, "sizeBytes" | "promisedBytes" | "pendingOp" | "qos" | "labels">>,
): LvolRow {
  const changed = { ...row, ...newIntent(state, row, intent), failed: false, ...change };
  state.lvols.set(row.id, changed);
  return changed;
}
