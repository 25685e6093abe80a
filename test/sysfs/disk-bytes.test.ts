import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { inspectBytes, type DiskBytes } from "../../src/sysfs/disk-bytes.ts";
import {
  HEAD_BYTES,
  PARTITION_TABLES,
  SIGNATURES,
  TAIL_BYTES,
} from "../../src/sysfs/signatures.ts";

const MIB = 1024 * 1024;
const SIZE = 64 * MIB + 7 * 512;

/** Head and tail of a disk of zeros with the given bytes; negative offsets count from its end. */
function diskWith(
  marks: readonly (readonly [at: number, hex: string])[],
  sizeBytes = SIZE,
): DiskBytes {
  const head = Buffer.alloc(Math.min(HEAD_BYTES, sizeBytes));
  const tail = Buffer.alloc(Math.min(TAIL_BYTES, sizeBytes));
  for (const [offset, hex] of marks) {
    const bytes = Buffer.from(hex, "hex");
    const at = offset < 0 ? sizeBytes + offset : offset;
    if (at < head.length) bytes.copy(head, at);
    const inTail = at - (sizeBytes - tail.length);
    if (inTail >= 0) bytes.copy(tail, inTail);
  }
  return { sizeBytes: BigInt(sizeBytes), head, tail };
}

const kinds = (bytes: DiskBytes) => inspectBytes("d", bytes).map(({ kind }) => kind);
const details = (bytes: DiskBytes, kind: string) =>
  inspectBytes("d", bytes)
    .filter((item) => item.kind === kind)
    .map(({ detail }) => detail);

const ascii = (text: string) => Buffer.from(text, "latin1").toString("hex");
const UUID = "00112233445566778899aabbccddeeff";

describe("the first and last bytes of a disk", () => {
  test("give no evidence if all are zero, whatever the size of the disk", () => {
    for (const size of [4096, MIB, 2 * MIB + 4096, SIZE]) {
      expect(inspectBytes("d", diskWith([], size))).toEqual([]);
    }
  });

  // Offsets and bytes are repeated here independently, to find mistakes in the table.
  test.each([
    [
      "ext2/3/4",
      [
        [1024 + 56, "53ef"],
        [1024 + 104, UUID],
      ],
      UUID,
    ],
    [
      "xfs",
      [
        [0, "58465342"],
        [32, UUID],
      ],
      UUID,
    ],
    [
      "btrfs",
      [
        [65_536 + 64, "5f42485266535f4d"],
        [65_536 + 32, UUID],
      ],
      UUID,
    ],
    [
      "LUKS",
      [
        [0, "4c554b53babe0002"],
        [168, ascii("0a-uuid")],
      ],
      "0a-uuid",
    ],
    ["LUKS2 second header", [[16_384, "534b554cbabe"]], ""],
    [
      "LVM2 physical volume",
      [
        [512, ascii("LABELONE")],
        [512 + 24, ascii("LVM2 001pvid")],
      ],
      "pvid",
    ],
    [
      "md RAID 1",
      [
        [4096, "fc4e2ba901000000"],
        [4096 + 16, UUID],
      ],
      UUID,
    ],
    [
      "md RAID 1.0",
      [
        [-(8192 + 3584), "fc4e2ba901000000"],
        [-(8192 + 3584) + 16, UUID],
      ],
      UUID,
    ],
    ["md RAID 0.90", [[-(65_536 + 3584), "fc4e2ba9"]], ""],
    ["zfs", [[131_072 + 5 * 1024, "0cb1ba0000000000"]], ""],
    ["zfs", [[-(3584 + 262_144) + 131_072, "0cb1ba0000000000"]], ""],
    [
      "swap",
      [
        [4086, ascii("SWAPSPACE2")],
        [1036, UUID],
      ],
      UUID,
    ],
    ["hibernated system", [[4086, ascii("S1SUSPEND")]], ""],
    ["ntfs", [[3, ascii("NTFS    ")]], ""],
    [
      "vfat",
      [
        [82, ascii("FAT32   ")],
        [67, "12345678"],
      ],
      "12345678",
    ],
    [
      "vfat",
      [
        [54, ascii("FAT16   ")],
        [39, "12345678"],
      ],
      "12345678",
    ],
    ["exfat", [[3, ascii("EXFAT   ")]], ""],
    [
      "bcache",
      [
        [4096 + 24, "c68573f64e1a45ca8265f57f48ba6d81"],
        [4096 + 40, UUID],
      ],
      UUID,
    ],
    ["bcachefs", [[4096 + 24, "c68573f666ce90a9d96a60cf803df7ef"]], ""],
    ["ceph bluestore", [[0, ascii("bluestore block device\nosd-uuid\n")]], "osd-uuid"],
    ["iso9660", [[32_768 + 1, ascii("CD001")]], ""],
    ["squashfs", [[0, ascii("hsqs")]], ""],
    ["drbd", [[-4096 + 60, "8374026d"]], ""],
    ["vmfs volume", [[MIB, "0dd001c0"]], ""],
    ["vmfs", [[2 * MIB, "5ef1ab2f"]], ""],
    ["f2fs", [[1024, "1020f5f2"]], ""],
    ["stratis", [[516, ascii("!Stra0tis")]], ""],
    ["DDF RAID", [[-512, "de11de11"]], ""],
    ["Intel RAID", [[-1024, ascii("Intel Raid ISM Cfg Sig. 1.0")]], ""],
  ] as const)("show %s", (name, marks, id) => {
    expect(details(diskWith(marks), "SIGNATURE")).toEqual([`${name} ${id}`.trim()]);
  });

  test.each([
    [
      "MBR",
      [
        [510, "55aa"],
        [440, "cafe0001"],
      ],
      "cafe0001",
    ],
    [
      "GPT",
      [
        [512, ascii("EFI PART")],
        [512 + 56, UUID],
      ],
      UUID,
    ],
    [
      "GPT",
      [
        [4096, ascii("EFI PART")],
        [4096 + 56, UUID],
      ],
      UUID,
    ],
    [
      "backup GPT",
      [
        [-512, ascii("EFI PART")],
        [-512 + 56, UUID],
      ],
      UUID,
    ],
    [
      "backup GPT",
      [
        [-4096, ascii("EFI PART")],
        [-4096 + 56, UUID],
      ],
      UUID,
    ],
  ] as const)("show a partition table: %s", (name, marks, id) => {
    expect(details(diskWith(marks), "PARTITION_TABLE")).toEqual([`${name} ${id}`]);
  });

  test("show every signature of the tables at every offset it may have", () => {
    const rows = [
      ...SIGNATURES.map((row) => ({ ...row, kind: "SIGNATURE" })),
      ...PARTITION_TABLES.map((row) => ({ ...row, kind: "PARTITION_TABLE" })),
    ];
    for (const { name, magic, at, align, kind } of rows) {
      const hex = magic.startsWith("0x") ? magic.slice(2) : ascii(magic);
      for (const offset of at) {
        const aligned = offset < 0 && align !== undefined ? offset - (SIZE % align) : offset;
        const found = details(diskWith([[aligned, hex]]), kind);
        expect(
          found.some((detail) => detail.startsWith(name)),
          `${name} at ${offset}`,
        ).toBe(true);
      }
    }
  });

  test("give evidence if any byte of the first or last MiB is not 0", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 2 * MIB - 1 }),
        fc.integer({ min: 1, max: 255 }),
        fc.integer({ min: 1, max: 16 }),
        (place, value, mebibytes) => {
          const at = place < MIB ? place % (mebibytes * MIB) : place - 2 * MIB;
          const byte = value.toString(16).padStart(2, "0");
          expect(kinds(diskWith([[at, byte]], mebibytes * MIB))).toContain("NONZERO_DATA");
        },
      ),
      { numRuns: 40 },
    );
  });

  test("show an SPDK blobstore and its type", () => {
    const bytes = diskWith([
      [0, ascii("SPDKBLOB")],
      [56, ascii("LVOLSTORE")],
    ]);
    expect(inspectBytes("d", bytes)).toEqual([
      { kind: "SPDK_BLOBSTORE", subject: "d", detail: "SPDK blobstore LVOLSTORE" },
      { kind: "NONZERO_DATA", subject: "d", detail: "in the first MiB" },
    ]);
  });

  test("of a blobstore give no other signature, for example of a tenant's backup GPT", () => {
    const bytes = diskWith([
      [0, ascii("SPDKBLOB")],
      [-512, ascii("EFI PART")],
    ]);
    expect(kinds(bytes)).toEqual(["SPDK_BLOBSTORE", "NONZERO_DATA", "NONZERO_DATA"]);
  });

  test("of a disk smaller than HEAD_BYTES are inspected", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 300_000 }), (size) => {
        const bytes = { ...diskWith([], size), head: Buffer.alloc(size, 0xff) };
        expect(kinds(bytes)).toContain("NONZERO_DATA");
      }),
      { numRuns: 30 },
    );
  });
});
