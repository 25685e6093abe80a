// Which disk a new volume goes to, and why it fits on none. Pure; the caller holds the lock.
import { alignUp } from "./bytes.ts";
import { promisableBytes, type DiskRow } from "./disk.ts";
import { Refusal } from "./errors.ts";
import type { CreationRequest } from "./lvol.ts";

export type PlacementPolicy = {
  readonly overcommit: number;
  readonly isolation: "strict" | "trusted";
};

type Disks = ReadonlyMap<string, DiskRow>;

export type Place = { readonly disk: DiskRow; readonly promisedBytes: bigint };

/** The disk asked for, or the one with most unpromised bytes among those that fit. */
export function place(disks: Disks, policy: PlacementPolicy, request: CreationRequest): Place {
  if (request.diskId !== undefined) return placeOn(disks, policy, request.diskId, request);
  const candidates = [...disks.values()].filter((disk) => refusalOf(disk, policy) === undefined);
  if (candidates.length === 0) throw noDisk(disks, policy);
  const places = candidates
    .map((disk) => ({ disk, ...fit(disk, policy, request) }))
    .toSorted((a, b) =>
      a.left === b.left ? (a.disk.id < b.disk.id ? -1 : 1) : a.left > b.left ? -1 : 1,
    );
  const best = places.find((candidate) => candidate.fits);
  if (best !== undefined) return best;
  const left = places[0]?.left ?? 0n;
  if (places.every((candidate) => candidate.tooLarge)) throw tooLarge(request, places);
  throw new Refusal("NO_DISK_FITS", `no disk has ${request.sizeBytes} bytes left to promise`, {
    quota: [
      {
        subject: "promised_bytes",
        description: `asked ${request.sizeBytes}, left ${left > 0n ? left : 0n} on the emptiest disk`,
      },
    ],
  });
}

function placeOn(
  disks: Disks,
  policy: PlacementPolicy,
  diskId: string,
  request: CreationRequest,
): Place {
  const disk = disks.get(diskId);
  if (disk === undefined) throw new Refusal("NOT_FOUND", `disk ${diskId} is not on this node`);
  const refusal = refusalOf(disk, policy);
  if (refusal !== undefined) throw refusal;
  const { fits, left, promisedBytes, tooLarge: never } = fit(disk, policy, request);
  if (never) throw tooLarge(request, [{ disk }]);
  if (fits) return { disk, promisedBytes };
  throw new Refusal("NO_CAPACITY", `disk ${diskId} has ${left} bytes left to promise`, {
    quota: [
      {
        subject: `disks/${diskId}`,
        description: `asked ${promisedBytes}, left ${left > 0n ? left : 0n}`,
      },
    ],
  });
}

/** Why a disk takes no new volume at all, undefined if it does. */
function refusalOf(disk: DiskRow, policy: PlacementPolicy): Refusal | undefined {
  if (disk.state !== "UP") {
    return new Refusal("DISK_NOT_UP", `disk ${disk.id} is ${disk.state}: ${disk.stateReason}`, {
      preconditions: [{ subject: `disks/${disk.id}`, description: `state ${disk.state}` }],
    });
  }
  if (disk.cordoned) return new Refusal("CORDONED", `disk ${disk.id} takes no new volumes`);
  if (disk.freeSpace !== "ZEROED" && policy.isolation === "strict") {
    return new Refusal(
      "FREE_SPACE_NOT_ZEROED",
      `free space of disk ${disk.id} may hold old bytes; see ZeroFreeSpace`,
    );
  }
  return undefined;
}

function noDisk(disks: Disks, policy: PlacementPolicy): Refusal {
  const refusals = [...disks.values()].map((disk) => refusalOf(disk, policy));
  const notUp = refusals.every((refusal) => refusal?.reason === "DISK_NOT_UP");
  const first = refusals.find((refusal) => refusal?.reason !== "DISK_NOT_UP");
  return notUp || first === undefined
    ? new Refusal("DISK_NOT_UP", "no disk of this node is UP")
    : first;
}

function fit(disk: DiskRow, policy: PlacementPolicy, request: CreationRequest) {
  const cluster = disk.clusterBytes ?? 1n;
  const promisedBytes = alignUp(request.sizeBytes, cluster);
  const left = promisableBytes(disk, policy.overcommit) - disk.promisedBytes;
  // A thin volume may be over-committed together with others, but a single one may never be larger
  // than the disk that it lies on: it could never be filled.
  const total = (disk.totalClusters ?? 0n) * cluster;
  const thickLeft = total - disk.promisedBytes;
  const fits =
    promisedBytes <= total && promisedBytes <= (request.thin ? left : min(left, thickLeft));
  // Each lvol takes a metadata page of about one cluster's bookkeeping (CONTRACT section 5).
  const roomForOne = BigInt(disk.lvolCount) < (disk.totalClusters ?? 0n);
  return { promisedBytes, left, fits: fits && roomForOne, tooLarge: promisedBytes > total };
}

function min(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

function tooLarge(
  request: CreationRequest,
  places: readonly { readonly disk: DiskRow }[],
): Refusal {
  const totals = places.map(({ disk }) => (disk.totalClusters ?? 0n) * (disk.clusterBytes ?? 0n));
  const largest = totals.reduce((a, b) => (a > b ? a : b), 0n);
  const description = `${request.sizeBytes} is more than the ${largest} bytes of the largest disk`;
  return new Refusal("INVALID_FIELD", `spec.size_bytes: ${description}`, {
    code: "OUT_OF_RANGE",
    fields: [{ field: "spec.size_bytes", description }],
  });
}
