// Placement: the disk for a new volume, or a Refusal that says why it fits on none. Pure; the
// caller holds the lock of the node's row.
import { alignUp } from "./bytes.ts";
import { discardRefusal, type DiscardGuard, type Isolation } from "./discards.ts";
import { promisableBytes, type DiskRow } from "./disk.ts";
import { Refusal } from "./errors.ts";
import type { CreationRequest } from "./lvol.ts";

export type PlacementPolicy = {
  readonly overcommit: number;
  readonly isolation: Isolation;
  readonly discardGuard: DiscardGuard | undefined;
  /** Bytes by disk that lvols without a row hold: they are promised to nobody, and not free. */
  readonly orphanBytes?: ReadonlyMap<string, bigint> | undefined;
};

type Disks = ReadonlyMap<string, DiskRow>;

export type Place = { readonly disk: DiskRow; readonly promisedBytes: bigint };

/**
 * The requested disk, or of those that fit the one with the most bytes left to promise; one without a
 * free cluster only if every one is.
 */
export function place(disks: Disks, policy: PlacementPolicy, request: CreationRequest): Place {
  if (request.diskId !== undefined) return placeOn(disks, policy, request.diskId, request);
  const candidates = [...disks.values()].filter(
    (disk) => refusalOf(disk, policy, request) === undefined,
  );
  if (candidates.length === 0) throw noDisk(disks, policy, request);
  const places = candidates
    .map((disk) => ({ disk, ...fit(disk, policy, request) }))
    .toSorted((a, b) =>
      isFull(a.disk) !== isFull(b.disk)
        ? isFull(a.disk)
          ? 1
          : -1
        : a.room === b.room
          ? a.disk.id < b.disk.id
            ? -1
            : 1
          : a.room > b.room
            ? -1
            : 1,
    );
  const best = places.find((candidate) => candidate.fits);
  if (best !== undefined) return best;
  const mostLeft = max(places[0]?.room ?? 0n, 0n);
  if (places.every((candidate) => candidate.tooLarge)) throw tooLarge(request, places);
  throw new Refusal("NO_DISK_FITS", `no disk has ${request.sizeBytes} bytes left to promise`, {
    quota: [
      {
        subject: "promised_bytes",
        description: `asked ${request.sizeBytes} bytes, the emptiest disk has ${mostLeft} left`,
      },
    ],
  });
}

/** As last recorded: a preference and no refusal, as clusters may have been freed since. */
function isFull({ freeClusters }: DiskRow): boolean {
  return freeClusters === 0n;
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
  const { fits, room, promisedBytes, tooLarge: neverFits } = fit(disk, policy, request);
  if (neverFits) throw tooLarge(request, [{ disk }]);
  if (fits) return { disk, promisedBytes };
  const left = max(room, 0n);
  const message = `disk ${diskId} has no room for ${promisedBytes} bytes, ${left} left to promise`;
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
 * Whether a disk has room for what one of its volumes will need: throws a Refusal if it has not. Neither a
 * cordon nor free space that is not zeroed is in the way.
 */
export function placeMore(disk: DiskRow, policy: PlacementPolicy, bytes: bigint): void {
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

/** Why a disk takes no new volume at all, undefined if it does. */
function refusalOf(
  disk: DiskRow,
  policy: PlacementPolicy,
  { thin }: CreationRequest,
): Refusal | undefined {
  if (disk.state !== "UP") {
    return new Refusal("DISK_NOT_UP", `disk ${disk.id} is ${disk.state}: ${disk.stateReason}`, {
      preconditions: [{ subject: `disks/${disk.id}`, description: `state ${disk.state}` }],
    });
  }
  if (disk.cordoned) {
    return new Refusal("CORDONED", `disk ${disk.id} is cordoned and takes no new volumes`);
  }
  if (disk.freeSpace !== "ZEROED" && policy.isolation === "strict") {
    return new Refusal(
      "FREE_SPACE_NOT_ZEROED",
      `free space of disk ${disk.id} may hold old bytes; call ZeroFreeSpace`,
    );
  }
  return thin ? discardRefusal(disk, { ...policy, guard: policy.discardGuard }) : undefined;
}

function noDisk(disks: Disks, policy: PlacementPolicy, request: CreationRequest): Refusal {
  const refusals = [...disks.values()].map((disk) => refusalOf(disk, policy, request));
  const notUp = refusals.every((refusal) => refusal?.reason === "DISK_NOT_UP");
  const first = refusals.find((refusal) => refusal?.reason !== "DISK_NOT_UP");
  return notUp || first === undefined
    ? new Refusal("DISK_NOT_UP", "no disk of this node is UP")
    : first;
}

function fit(disk: DiskRow, policy: PlacementPolicy, request: CreationRequest) {
  const cluster = disk.clusterBytes ?? 1n;
  const promisedBytes = alignUp(request.sizeBytes, cluster);
  const taken = disk.promisedBytes + (policy.orphanBytes?.get(disk.id) ?? 0n);
  const room = promisableBytes(disk, policy.overcommit) - taken;
  // Thin volumes may be over-committed in sum, but none may be larger than its disk: it could never
  // be filled.
  const total = (disk.totalClusters ?? 0n) * cluster;
  const thickLeft = total - taken;
  const fits =
    promisedBytes <= total && promisedBytes <= (request.thin ? room : min(room, thickLeft));
  // An lvstore has about one metadata page per cluster and each lvol takes at least one, so it
  // holds at most about as many lvols as clusters (docs/spdk-contract.md#limits).
  const belowLvolLimit = BigInt(disk.lvolCount + disk.snapshotCount) < (disk.totalClusters ?? 0n);
  return { promisedBytes, room, fits: fits && belowLvolLimit, tooLarge: promisedBytes > total };
}

function min(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}

function tooLarge(
  request: CreationRequest,
  places: readonly { readonly disk: DiskRow }[],
): Refusal {
  const totals = places.map(({ disk }) => (disk.totalClusters ?? 0n) * (disk.clusterBytes ?? 0n));
  const largest = totals.reduce((a, b) => max(a, b), 0n);
  const description = `${request.sizeBytes} bytes exceed the largest disk, ${largest} bytes`;
  return new Refusal("INVALID_FIELD", `spec.size_bytes: ${description}`, {
    code: "OUT_OF_RANGE",
    fields: [{ field: "spec.size_bytes", description }],
  });
}
