// Evidence from the first and the last bytes of a disk. Pure: bytes in, evidence out. It may report
// a signature on an unused disk; it never reports a disk in use as blank.
import type { Evidence } from "../model/evidence.ts";
import { PARTITION_TABLES, SIGNATURES, type Signature } from "./signatures.ts";

export type DiskBytes = {
  readonly sizeBytes: bigint;
  /** The first HEAD_BYTES, or the whole disk if it is smaller. */
  readonly head: Uint8Array;
  /** The last TAIL_BYTES, or the whole disk if it is smaller. */
  readonly tail: Uint8Array;
};

const MIB = 1024 * 1024;

/**
 * SPDK blobstore super block (lib/blob/blobstore.h): signature, and the blobstore type at byte 56.
 */
const BLOBSTORE = Buffer.from("SPDKBLOB", "latin1");
const BLOBSTORE_TYPE = { from: 56, length: 16 };

/** Evidence of kinds SPDK_BLOBSTORE, PARTITION_TABLE, SIGNATURE and NONZERO_DATA. */
export function inspectBytes(subject: string, bytes: DiskBytes): readonly Evidence[] {
  const { head, tail } = bytes;
  const firstMib = head.subarray(0, MIB);
  const lastMib = tail.subarray(Math.max(0, tail.length - MIB));
  return [
    ...signatureEvidence(subject, bytes),
    ...(allZero(firstMib)
      ? []
      : [{ kind: "NONZERO_DATA", subject, detail: "in the first MiB" } as const]),
    ...(allZero(lastMib)
      ? []
      : [{ kind: "NONZERO_DATA", subject, detail: "in the last MiB" } as const]),
  ];
}

function signatureEvidence(subject: string, bytes: DiskBytes): readonly Evidence[] {
  if (BLOBSTORE.equals(bytes.head.subarray(0, BLOBSTORE.length))) {
    // Ignore all other signatures: on a blobstore they are data of its volumes, for example a
    // tenant's backup GPT in the last cluster.
    const type = printable(bytes.head, BLOBSTORE_TYPE.from, BLOBSTORE_TYPE.length);
    return [{ kind: "SPDK_BLOBSTORE", subject, detail: `SPDK blobstore ${type}`.trim() }];
  }
  return [
    ...matches(PARTITION_TABLES, bytes).map(
      (detail) => ({ kind: "PARTITION_TABLE", subject, detail }) as const,
    ),
    ...matches(SIGNATURES, bytes).map(
      (detail) => ({ kind: "SIGNATURE", subject, detail }) as const,
    ),
  ];
}

function matches(table: readonly Signature[], bytes: DiskBytes): readonly string[] {
  const details = table.flatMap((signature) => {
    const magic = magicOf(signature.magic);
    return signature.at
      .map((offset) => locate(bytes, offset, signature.align ?? 1))
      .filter((window) => window !== undefined)
      .filter(({ view, at }) => magic.equals(view.subarray(at, at + magic.length)))
      .map(({ view, at }) => `${signature.name} ${idAt(signature, view, at)}`.trim());
  });
  return [...new Set(details)];
}

/** Head or tail that contains an offset, and the index in it; undefined if it was not read. */
function locate(
  { sizeBytes, head, tail }: DiskBytes,
  offset: number,
  align: number,
): { view: Uint8Array; at: number } | undefined {
  if (offset >= 0) return offset < head.length ? { view: head, at: offset } : undefined;
  const end = (sizeBytes / BigInt(align)) * BigInt(align);
  const at = end + BigInt(offset) - (sizeBytes - BigInt(tail.length));
  return at >= 0n ? { view: tail, at: Number(at) } : undefined;
}

function idAt({ id }: Signature, view: Uint8Array, at: number): string {
  if (id === undefined) return "";
  const from = at + id.from;
  if (from < 0) return "";
  if (id.text === true) return printable(view, from, id.length);
  return Buffer.from(view.subarray(from, from + id.length)).toString("hex");
}

function printable(view: Uint8Array, from: number, length: number): string {
  const text = Buffer.from(view.subarray(from, from + length)).toString("latin1");
  return /^[\x20-\x7e]*/.exec(text)?.[0].trim() ?? "";
}

function magicOf(magic: string): Buffer {
  return magic.startsWith("0x") ? Buffer.from(magic.slice(2), "hex") : Buffer.from(magic, "latin1");
}

function allZero(bytes: Uint8Array): boolean {
  return Buffer.alloc(bytes.length).equals(bytes);
}
