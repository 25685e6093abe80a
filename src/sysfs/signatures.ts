// Signatures of well-known on-disk formats and their offsets. Data only, after the tables of
// libblkid (util-linux, libblkid/src/superblocks and src/partitions). It leaves out libblkid's
// checks of the rest of a superblock on purpose: a matching signature alone is reason enough not to
// claim a disk.
//
// Magic: text, or hex after "0x". Offsets in bytes count from the start of the disk; negative ones
// from its end, rounded down to `align`.

export type Signature = {
  readonly name: string;
  readonly magic: string;
  readonly at: readonly number[];
  readonly align?: number;
  /**
   * Offset (relative to the magic) and bytes of the format's own id, to tell disks of one format
   * apart.
   */
  readonly id?: { readonly from: number; readonly length: number; readonly text?: boolean };
};

const KIB = 1024;
const MIB = 1024 * KIB;
const uuid = (from: number) => ({ from, length: 16 });
const idText = (from: number, length: number) => ({ from, length, text: true });

/**
 * mkswap and hibernation write their magic into the last 10 bytes of the first page: every page
 * size.
 */
const pageEnds = [0xff6, 0x1ff6, 0x3ff6, 0x7ff6, 0xfff6];
/**
 * zfs has two labels at the start and two at the end, each with 128 uberblocks of at least 1 KiB.
 */
const uberblocks = [0, 256 * KIB, -512 * KIB, -256 * KIB].flatMap((label) =>
  Array.from({ length: 128 }, (_, index) => label + 128 * KIB + index * KIB),
);

export const SIGNATURES: readonly Signature[] = [
  { name: "ext2/3/4", magic: "0x53ef", at: [0x438], id: uuid(0x30) },
  { name: "xfs", magic: "XFSB", at: [0], id: uuid(32) },
  { name: "btrfs", magic: "_BHRfS_M", at: [64 * KIB + 0x40], id: uuid(-0x20) },
  { name: "bcachefs", magic: "0xc68573f666ce90a9d96a60cf803df7ef", at: [0x1018, 2 * MIB + 0x18] },
  { name: "bcache", magic: "0xc68573f64e1a45ca8265f57f48ba6d81", at: [0x1018], id: uuid(16) },
  { name: "f2fs", magic: "0x1020f5f2", at: [KIB] },
  { name: "jfs", magic: "JFS1", at: [32 * KIB] },
  { name: "nilfs2", magic: "0x3434", at: [KIB + 6] },
  { name: "reiserfs", magic: "ReIsEr", at: [8 * KIB + 0x34, 64 * KIB + 0x34, 8 * KIB + 20] },
  { name: "reiser4", magic: "ReIsEr4", at: [64 * KIB] },
  { name: "gfs", magic: "0x01161970", at: [64 * KIB] },
  { name: "ocfs2", magic: "OCFSV2", at: [1, 2, 4, 8].map((kib) => kib * KIB) },
  { name: "oracle ASM", magic: "ORCLDISK", at: [32] },
  { name: "ntfs", magic: "NTFS    ", at: [3] },
  { name: "exfat", magic: "EXFAT   ", at: [3] },
  { name: "refs", magic: "0x0000005265465300", at: [0] },
  { name: "bitlocker", magic: "-FVE-FS-", at: [3] },
  { name: "vfat", magic: "FAT32   ", at: [0x52], id: { from: -15, length: 4 } },
  { name: "vfat", magic: "MSWIN", at: [0x52] },
  { name: "vfat", magic: "FAT16   ", at: [0x36], id: { from: -15, length: 4 } },
  { name: "vfat", magic: "FAT12   ", at: [0x36], id: { from: -15, length: 4 } },
  { name: "vfat", magic: "MSDOS", at: [0x36] },
  { name: "hfs", magic: "BD", at: [KIB] },
  { name: "hfs+", magic: "H+", at: [KIB] },
  { name: "hfs+", magic: "HX", at: [KIB] },
  { name: "apfs", magic: "NXSB", at: [32] },
  { name: "ufs", magic: "0x54190100", at: [8, 64, 256].map((kib) => kib * KIB + 0x55c) },
  { name: "ufs2", magic: "0x19015419", at: [8, 64, 256].map((kib) => kib * KIB + 0x55c) },
  { name: "iso9660", magic: "CD001", at: [32 * KIB + 1] },
  { name: "udf", magic: "BEA01", at: [32 * KIB + 1] },
  { name: "udf", magic: "NSR02", at: [32 * KIB + 1, 34 * KIB + 1] },
  { name: "udf", magic: "NSR03", at: [32 * KIB + 1, 34 * KIB + 1] },
  { name: "squashfs", magic: "hsqs", at: [0] },
  { name: "squashfs", magic: "sqsh", at: [0] },
  { name: "erofs", magic: "0xe2e1f5e0", at: [KIB] },
  { name: "cramfs", magic: "0x453dcd28", at: [0] },
  { name: "vmfs", magic: "0x5ef1ab2f", at: [2 * MIB] },
  { name: "vmfs volume", magic: "0x0dd001c0", at: [MIB] },
  { name: "ceph bluestore", magic: "bluestore block device", at: [0], id: idText(23, 36) },
  { name: "zfs", magic: "0x0cb1ba0000000000", at: uberblocks, align: 256 * KIB },
  { name: "zfs", magic: "0x0000000000bab10c", at: uberblocks, align: 256 * KIB },
  { name: "LUKS", magic: "0x4c554b53babe", at: [0], id: idText(168, 36) },
  {
    name: "LUKS2 second header",
    magic: "0x534b554cbabe",
    at: [16, 32, 64, 128, 256, 512, 1024, 2048].map((kib) => kib * KIB),
    id: idText(168, 36),
  },
  {
    name: "LVM2 physical volume",
    magic: "LVM2 001",
    at: [0x18, 0x218, 0x418, 0x618],
    id: idText(8, 32),
  },
  { name: "LVM snapshot", magic: "SnAp", at: [0] },
  { name: "dm-verity", magic: "0x7665726974790000", at: [0] },
  { name: "dm-integrity", magic: "0x696e746567727400", at: [0] },
  { name: "vdo", magic: "dmvdo001", at: [0] },
  { name: "stratis", magic: "!Stra0tis", at: [512 + 4, 9 * 512 + 4] },
  // Version 0.90 little and big endian; 1.1, 1.2 and 1.0.
  { name: "md RAID 0.90", magic: "0xfc4e2ba9", at: [-64 * KIB], align: 64 * KIB },
  { name: "md RAID 0.90", magic: "0xa92b4efc", at: [-64 * KIB], align: 64 * KIB },
  { name: "md RAID 1", magic: "0xfc4e2ba9", at: [0, 4 * KIB], id: uuid(16) },
  { name: "md RAID 1.0", magic: "0xfc4e2ba9", at: [-8 * KIB], align: 4 * KIB, id: uuid(16) },
  { name: "Intel RAID", magic: "Intel Raid ISM Cfg Sig. ", at: [-1024, -8192] },
  { name: "DDF RAID", magic: "0xde11de11", at: [-512, -4096] },
  { name: "DDF RAID", magic: "0x11de11de", at: [-512, -4096] },
  { name: "Nvidia RAID", magic: "NVIDIA  ", at: [-1024, -8192] },
  { name: "drbd", magic: "0x8374026b", at: [-4096 + 0x3c] },
  { name: "drbd", magic: "0x8374026c", at: [-4096 + 0x3c] },
  { name: "drbd", magic: "0x8374026d", at: [-4096 + 0x3c] },
  { name: "swap", magic: "SWAPSPACE2", at: [0xff6], id: uuid(0x40c - 0xff6) },
  { name: "swap", magic: "SWAPSPACE2", at: pageEnds.slice(1) },
  { name: "swap", magic: "SWAP-SPACE", at: pageEnds },
  ...["S1SUSPEND", "S2SUSPEND", "ULSUSPEND", "LINHIB0001"].map((magic) => ({
    name: "hibernated system",
    magic,
    at: pageEnds,
  })),
];

/** Partition tables. GPT for blocks of 512 and of 4096 bytes, at both ends of the disk. */
export const PARTITION_TABLES: readonly Signature[] = [
  { name: "GPT", magic: "EFI PART", at: [512, 4096], id: uuid(56) },
  { name: "backup GPT", magic: "EFI PART", at: [-512, -4096], id: uuid(56) },
  { name: "MBR", magic: "0x55aa", at: [510], id: { from: -70, length: 4 } },
  { name: "Sun label", magic: "0xdabe", at: [508] },
  { name: "SGI label", magic: "0x0be5a941", at: [0] },
  { name: "BSD label", magic: "0x57455682", at: [64, 512] },
  { name: "Apple partition map", magic: "PM", at: [512] },
  { name: "Windows dynamic disk", magic: "PRIVHEAD", at: [3 * KIB] },
];

/** The head must contain the furthest offset, the tail at least the two zfs labels at the end. */
export const HEAD_BYTES = 2 * MIB + 64 * KIB;
export const TAIL_BYTES = MIB;
