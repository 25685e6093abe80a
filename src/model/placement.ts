// Placement: the disk for a new volume, or a Refusal that says why it fits on none. Pure; the
// caller holds the lock of the node's row.
import { alignUp } from "./bytes.ts";
import { discardRefusal, type DiscardGuard, type Isolation } from "./discards.ts";
import { promisableBytes, type DiskRow } from "./disk.ts";
import { Refusal } from "./errors.ts";
import { freeSpaceDirt } from "./free-space.ts";
import { zeroesByItself, type Zeroing } from "./zeroing.ts";
import type { CreationRequest } from "./lvol.ts";
import { diskFailure } from "./seen-health.ts";

export type PlacementPolicy = {
  readonly overcommit: number;
  readonly isolation: Isolation;
  readonly zeroing: Zeroing;
  readonly discardGuard: DiscardGuard | undefined;
  /** Bytes by disk that lvols without a row hold: they are promised to nobody, and not free. */
  readonly orphanBytes?: ReadonlyMap<string, bigint> | undefined;
  /** Free clusters by disk, as observed; a disk that is not in it was not observed. */
  readonly freeClusters?: ReadonlyMap<string, bigint> | undefined;
};

type Disks = ReadonlyMap<string, DiskRow>;

export type Place = { readonly disk: DiskRow; readonly promisedBytes: bigint };

/**
 * The requested disk, or of those that fit the one with the most bytes left to promise. A disk without
 * the clusters that the volume needs at once does not fit, whatever it may promise.
 */
export function place(disks: Disks, policy: PlacementPolicy, request: CreationRequest): Place {
  if (request.diskId !== undefined) return placeOn(disks, policy, request.diskId, request);
  const candidates = [...disks.values()].filter(
    (disk) => refusalOf(disk, policy, request) === undefined,
  );
  if (candidates.length === 0) throw noDisk(disks, policy, request);
  const places = candidates
    .map((disk) => ({ disk, ...fit(disk, policy, request) }))
    .toSorted(byPreference);
  const best = places.find((candidate) => candidate.fits);
  if (best !== undefined) return best;
  if (places.every((candidate) => candidate.tooLarge))
    throw tooLarge("spec.size_bytes", request.sizeBytes, places);
  const largeEnough = places.filter((candidate) => !candidate.tooLarge);
  const mostLeft = largeEnough.reduce((most, { left }) => max(most, left), 0n);
  throw new Refusal("NO_DISK_FITS", noRoomText(request.sizeBytes, mostLeft), {
    quota: [
      {
        subject: "promised_bytes",
        description: `asked ${request.sizeBytes} bytes, the emptiest disk has ${mostLeft} left`,
      },
    ],
  });
}

type Candidate = { readonly disk: DiskRow; readonly isFull: boolean; readonly room: bigint };

/** Free clusters as recorded are a preference and no refusal: some may have been freed since. */
function byPreference(a: Candidate, b: Candidate): number {
  if (a.isFull !== b.isFull) return a.isFull ? 1 : -1;
  if (a.room !== b.room) return a.room > b.room ? -1 : 1;
  return a.disk.id < b.disk.id ? -1 : 1;
}

function placeOn(
  disks: Disks,
  policy: PlacementPolicy,
  diskId: string,
  request: CreationRequest,
): Place {
  const disk = disks.get(diskId);
  if (disk === undefined) throw new Refusal("NOT_FOUND", `disk ${diskId} is not on this node`);
  const refusal = refusalOf(disk, policy, request);
  if (refusal !== undefined) throw refusal;
  const { fits, left, lacks, promisedBytes, tooLarge: neverFits } = fit(disk, policy, request);
  if (neverFits) throw tooLarge("spec.size_bytes", request.sizeBytes, [{ disk }]);
  if (fits) return { disk, promisedBytes };
  const message = `disk ${diskId} has no room for ${promisedBytes} bytes, ${left} ${lacks}`;
  throw new Refusal("NO_CAPACITY", message, {
    quota: [
      {
        subject: `disks/${diskId}`,
        description: `asked ${promisedBytes} bytes, ${left} bytes left`,
      },
    ],
  });
}

/**
 * Whether a disk has room for what one of its volumes will need: throws a Refusal if it has not, or is failing.
 * Neither a cordon nor free space that is not zeroed is in the way.
 */
export function placeMore(disk: DiskRow, policy: PlacementPolicy, bytes: bigint): void {
  const failing = unhealthy(disk);
  if (failing !== undefined) throw failing;
  const taken = disk.promisedBytes + (policy.orphanBytes?.get(disk.id) ?? 0n);
  const left = max(promisableBytes(disk, policy.overcommit) - taken, 0n);
  const count = disk.lvolCount + disk.snapshotCount;
  if (BigInt(count) >= (disk.totalClusters ?? 0n)) {
    const description = `its lvstore has ${count} lvols, and no room for one more`;
    throw new Refusal("NO_CAPACITY", `disk ${disk.id} is full: ${description}`, {
      quota: [{ subject: `disks/${disk.id}`, description }],
    });
  }
  if (bytes <= left) return;
  const message = `disk ${disk.id} has no room for ${bytes} bytes, ${left} left to promise`;
  throw new Refusal("NO_CAPACITY", message, {
    quota: [
      { subject: `disks/${disk.id}`, description: `asked ${bytes} bytes, ${left} bytes left` },
    ],
  });
}

function noRoomText(asked: bigint, mostLeft: bigint): string {
  const most =
    mostLeft < asked
      ? `of those that are large enough the emptiest has ${mostLeft} left`
      : "those that have so much left hold as many lvols as they can";
  return `no disk has room for ${asked} bytes: ${most}; make room, or use another node`;
}

/** Why a disk takes no new volume at all, undefined if it does. */
function refusalOf(
  disk: DiskRow,
  policy: PlacementPolicy,
  { thin }: CreationRequest,
): Refusal | undefined {
  const state = disk.wanted === "release" && disk.state === "UP" ? "RELEASING" : disk.state;
  if (state !== "UP") {
    return new Refusal("DISK_NOT_UP", `disk ${disk.id} is ${state}: ${disk.stateReason}`, {
      preconditions: [{ subject: `disks/${disk.id}`, description: `state ${state}` }],
    });
  }
  const failing = unhealthy(disk);
  if (failing !== undefined) return failing;
  if (disk.cordoned) {
    return new Refusal("CORDONED", `disk ${disk.id} is cordoned and takes no new volumes`);
  }
  const refusal = notZeroed(disk, policy);
  if (refusal !== undefined || !thin) return refusal;
  return discardRefusal(disk, { ...policy, guard: policy.discardGuard });
}

/** No new bytes are promised on a disk that is failing, whoever they are for; undefined: it is not. */
export function unhealthy(disk: DiskRow): Refusal | undefined {
  const why = diskFailure(disk);
  if (why === undefined) return undefined;
  const message = `no new bytes are promised on disk ${disk.id}, which is failing: ${why}`;
  return new Refusal("DISK_UNHEALTHY", message, {
    preconditions: [{ subject: `disks/${disk.id}`, description: why }],
  });
}

/** Why no volume may get clusters of the disk that it does not have yet; undefined if it may. */
export function notZeroed(
  disk: DiskRow,
  { isolation, zeroing }: Pick<PlacementPolicy, "isolation" | "zeroing">,
): Refusal | undefined {
  if (disk.freeSpace === "ZEROED" || isolation === "trusted") return undefined;
  const { found, cure } = freeSpaceDirt(disk, {
    hostsMayFree: false,
    zeroesByItself: zeroesByItself({ isolation, zeroing }),
  });
  return new Refusal("FREE_SPACE_NOT_ZEROED", `free clusters of disk ${disk.id} ${found}; ${cure}`);
}

function noDisk(disks: Disks, policy: PlacementPolicy, request: CreationRequest): Refusal {
  const refusals = [...disks.values()].map((disk) => refusalOf(disk, policy, request));
  const notUp = refusals.every((refusal) => refusal?.reason === "DISK_NOT_UP");
  const first = refusals.find((refusal) => refusal?.reason !== "DISK_NOT_UP");
  return notUp || first === undefined
    ? new Refusal("DISK_NOT_UP", "no disk of this node is UP")
    : first;
}

/** Bytes that can still be promised to a volume of the disk; negative: too many are already. */
export function bytesLeft(
  disk: DiskRow,
  policy: Pick<PlacementPolicy, "orphanBytes" | "overcommit">,
  thin: boolean,
): bigint {
  const taken = disk.promisedBytes + (policy.orphanBytes?.get(disk.id) ?? 0n);
  const room = promisableBytes(disk, policy.overcommit) - taken;
  const thickLeft = (disk.totalClusters ?? 0n) * (disk.clusterBytes ?? 1n) - taken;
  return thin ? room : min(room, thickLeft);
}

function fit(disk: DiskRow, policy: PlacementPolicy, request: CreationRequest) {
  const cluster = disk.clusterBytes ?? 1n;
  const promisedBytes = alignUp(request.sizeBytes, cluster);
  // Thin volumes may be over-committed in sum, but none may be larger than its disk: it could never
  // be filled.
  const total = (disk.totalClusters ?? 0n) * cluster;
  const promisable = bytesLeft(disk, policy, request.thin);
  // An lvstore has about one metadata page per cluster and each lvol takes at least one, so it
  // holds at most about as many lvols as clusters (docs/spdk-contract.md#limits).
  const belowLvolLimit = BigInt(disk.lvolCount + disk.snapshotCount) < (disk.totalClusters ?? 0n);
  const freeClusters = policy.freeClusters?.get(disk.id);
  // A thick volume takes all of its clusters when it is made, a thin one its first with the first write.
  const needed = request.thin ? cluster : promisedBytes;
  const free = freeClusters === undefined ? needed : freeClusters * cluster;
  const isShort = free < needed;
  const isPromised = promisedBytes > promisable;
  return {
    promisedBytes,
    room: bytesLeft(disk, policy, true),
    isFull: (freeClusters ?? disk.freeClusters) === 0n,
    fits: promisedBytes <= total && !isPromised && belowLvolLimit && !isShort,
    tooLarge: promisedBytes > total,
    left: max(isShort && !isPromised ? free : promisable, 0n),
    lacks:
      isShort && !isPromised ? "free: hosts' data and orphans hold the rest" : "left to promise",
  };
}

function min(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}

export function tooLarge(
  field: string,
  sizeBytes: bigint,
  places: readonly { readonly disk: DiskRow }[],
): Refusal {
  const totals = places.map(({ disk }) => (disk.totalClusters ?? 0n) * (disk.clusterBytes ?? 0n));
  const largest = totals.reduce((a, b) => max(a, b), 0n);
  const description = `${sizeBytes} bytes exceed the largest disk, ${largest} bytes`;
  return new Refusal("INVALID_FIELD", `${field}: ${description}`, {
    code: "OUT_OF_RANGE",
    fields: [{ field, description }],
  });
}
