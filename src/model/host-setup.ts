// What a machine has for a target that takes its NVMe drives: memory, IOMMU, drivers, limits.

/** Hugepages of one size, of one NUMA node where the kernel tells them apart. */
export type Hugepages = {
  readonly node: number | undefined;
  readonly pageBytes: bigint;
  readonly total: bigint;
  readonly free: bigint;
};

/** An NVMe function; serial and model undefined: its present driver does not tell. */
export type HostDrive = {
  readonly address: string;
  readonly driver: string | undefined;
  readonly node: number | undefined;
  readonly serial: string | undefined;
  readonly model: string | undefined;
};

export type HostSetup = {
  readonly hugepages: readonly Hugepages[];
  readonly hasIommu: boolean;
  readonly hasVfioPci: boolean;
  /** /dev/vfio/vfio, by the user who looked. */
  readonly vfioNode: "absent" | "refused" | "open";
  readonly drives: readonly HostDrive[];
  /** CPUs of each NUMA node; empty: the kernel shows none. */
  readonly cpus: ReadonlyMap<number, ReadonlySet<number>>;
};

/** Limits of a process; undefined: none. */
export type ProcessLimits = {
  readonly lockedBytes: bigint | undefined;
  readonly openFiles: bigint | undefined;
  /** It may lock memory beyond its limit (CAP_IPC_LOCK). */
  readonly locksFreely: boolean;
};
