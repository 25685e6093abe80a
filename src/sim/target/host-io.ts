// I/O of a connected host on namespace 1, with its access checks and with what a discard frees
// (docs/spdk-contract.md#discard-by-hosts).
import {
  discardLvol,
  readLvol,
  refuseGrownClone,
  storedBytes,
  writeLvol,
  zeroLvol,
} from "./clusters.ts";
import type { CountedKind } from "./io-counters.ts";
import type { Release } from "./release.ts";
import { RpcError } from "./rpc-error.ts";
import type { Namespace, Subsystem } from "./nvmf-objects.ts";
import type { Bdev, LvolBdev, Target } from "./target.ts";

/** The I/O fails with this NVMe status: for a Linux host an error that no retry mends. */
export class IoFailed extends Error {
  constructor(message: string) {
    super(message);
    this.name = "IoFailed";
  }
}

export type IoRange = { readonly offset: number; readonly length: number };
export type HostOperation =
  | { readonly kind: "write"; readonly offset: number; readonly bytes: Buffer }
  | ({ readonly kind: "read" | "discard" | "write_zeroes" } & IoRange);

export type HostIoContext = {
  readonly target: Target;
  readonly release: Release;
  readonly subsystem: Subsystem;
};

export function namespaceBytes({ bdev }: Namespace): number {
  return bdev.kind === "disk"
    ? bdev.disk.bytes
    : bdev.numBlocks * bdev.store.base.disk.facts.blockSize;
}

/**
 * Carries out one I/O; a read returns its bytes. Throws IoFailed, or TargetAbort where a real
 * target crashes.
 */
export function hostIo(context: HostIoContext, io: HostOperation): Buffer | undefined {
  context.target.completedIo += 1;
  const namespace = context.subsystem.namespaces.get(1);
  if (namespace === undefined) throw new IoFailed("invalid namespace (sct 0 sc 0xb, DNR)");
  const length = io.kind === "write" ? io.bytes.length : io.length;
  if (io.offset + length > namespaceBytes(namespace)) {
    throw new IoFailed("LBA out of range (sct 0 sc 0x80)");
  }
  const { bdev } = namespace;
  const counted = COUNTED[io.kind];
  if (bdev.kind === "disk") {
    const read = diskIo(bdev, io);
    if (counted !== undefined) bdev.io.count(counted, length);
    return read;
  }
  try {
    // Of a discard: what it frees is not stored any more afterwards.
    const before = storedBytes(bdev, io.offset, length);
    const read = lvolIo(context, bdev, io);
    if (counted !== undefined) countLvolIo(bdev, counted, { length, before, at: io.offset });
    return read;
  } catch (error) {
    // No free cluster is left: Linux reports EIO.
    if (error instanceof RpcError) throw new IoFailed("internal error (sct 0 sc 6)");
    throw error;
  } finally {
    // What was answered is on the disk.
    context.target.flush();
  }
}

/** Written zeros are counted nowhere. */
const COUNTED: Readonly<Record<HostOperation["kind"], CountedKind | undefined>> = {
  read: "read",
  write: "write",
  discard: "unmap",
  write_zeroes: undefined,
};

/** What an lvol does counts on its disk too, as far as it reaches the disk. */
function countLvolIo(
  lvol: LvolBdev,
  kind: CountedKind,
  { at, length, before }: { readonly at: number; readonly length: number; readonly before: number },
): void {
  lvol.io.count(kind, length);
  const onDisk = kind === "write" ? storedBytes(lvol, at, length) : before;
  if (onDisk > 0) lvol.store.base.io.count(kind, onDisk);
}

function lvolIo(context: HostIoContext, lvol: LvolBdev, io: HostOperation): Buffer | undefined {
  if (io.kind === "read") return readLvol(lvol, io.offset, io.length);
  const { release, subsystem, target } = context;
  if (lvol.blob.readOnly || lvol.blob.snapshot) throw new IoFailed("write protected");
  if (io.kind === "discard") {
    if (target.masksDiscard) throw new IoFailed("invalid opcode (sct 0 sc 0x01)");
    const { clusterBytes } = lvol.store.store;
    const rangeBytes = subsystem.dmrsl * lvol.store.base.disk.facts.blockSize;
    // A host splits what is longer than dmrsl: no range then covers a whole cluster.
    const frees = release.hostDiscardsFree && rangeBytes >= clusterBytes;
    discardLvol(lvol, io.offset, io.length, { frees });
    return undefined;
  }
  const length = io.kind === "write" ? io.bytes.length : io.length;
  const end = Math.ceil((io.offset + length) / lvol.store.store.clusterBytes);
  // A refused shrink has cut the blob and left the size of the bdev.
  if (end > lvol.blob.clusters) throw new IoFailed("internal error (sct 0 sc 6)");
  refuseGrownClone({ release, method: `a host's ${io.kind}` }, lvol, end);
  if (io.kind === "write") writeLvol(lvol, io.offset, io.bytes);
  else zeroLvol(lvol, io.offset, io.length);
  return undefined;
}

function diskIo({ disk }: Extract<Bdev, { kind: "disk" }>, io: HostOperation): Buffer | undefined {
  switch (io.kind) {
    case "read":
      return disk.read(io.offset, io.length);
    case "write":
      disk.write(io.offset, io.bytes);
      break;
    case "write_zeroes":
      disk.write(io.offset, Buffer.alloc(io.length));
      break;
    case "discard":
      if (disk.facts.unmap === "zeroes") disk.write(io.offset, Buffer.alloc(io.length));
  }
  disk.flush();
  return undefined;
}
