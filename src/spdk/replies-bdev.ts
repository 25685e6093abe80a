// Replies about bdevs and NVMe controllers (docs/spdk-contract.md#bdevs), parsed once into exact
// types. Sizes and counters are bigint; fields that a release may lack are `| undefined`.

import {
  big,
  flag,
  integer,
  list,
  object,
  record,
  text,
  type Fields,
  type Read,
} from "./fields.ts";

/** Transport address of a controller. A PCIe controller has only trtype and traddr. */
export type TransportId = {
  readonly trtype: string;
  readonly traddr: string;
  readonly adrfam: string | undefined;
  readonly trsvcid: string | undefined;
  readonly subnqn: string | undefined;
};

/** 0 = unlimited. */
export type RateLimits = {
  readonly rwIosPerSec: bigint;
  readonly rwMbytesPerSec: bigint;
  readonly rMbytesPerSec: bigint;
  readonly wMbytesPerSec: bigint;
};

type BdevFields = {
  readonly name: string;
  readonly aliases: readonly string[];
  readonly uuid: string;
  readonly productName: string;
  readonly blockSize: number;
  readonly numBlocks: bigint;
  readonly sizeBytes: bigint;
  readonly claimed: boolean;
  /** While claimed: exclusive_write (exported) or read_many_write_one (carries a loaded store). */
  readonly claimType: string | undefined;
  readonly rateLimits: RateLimits;
  /** I/O types that matter for a disk; SPDK lists about twenty, which differ by release. */
  readonly supports: {
    readonly write: boolean;
    readonly unmap: boolean;
    readonly writeZeroes: boolean;
  };
};

export type LvolBdev = BdevFields & {
  readonly kind: "lvol";
  readonly lvol: {
    readonly storeUuid: string;
    readonly baseBdev: string;
    readonly thin: boolean;
    readonly snapshot: boolean;
    readonly clone: boolean;
    /** Undefined on 24.01, which does not report it. */
    readonly allocatedClusters: bigint | undefined;
    /** Name (not uuid) of the snapshot this is a clone of. */
    readonly baseSnapshot: string | undefined;
    /** Names of the clones of this snapshot. */
    readonly clones: readonly string[];
  };
};

/** One path to the namespace; local disks have exactly one. */
export type NvmePath = {
  readonly trid: TransportId;
  readonly pciAddress: string | undefined;
  readonly serialNumber: string;
  readonly modelNumber: string;
  readonly firmwareRevision: string;
  readonly nsid: number;
};

export type NvmeBdev = BdevFields & { readonly kind: "nvme"; readonly paths: readonly NvmePath[] };
export type OtherBdev = BdevFields & { readonly kind: "other" };
export type Bdev = LvolBdev | NvmeBdev | OtherBdev;

const CONTROLLER_STATES = [
  "enabled",
  "resetting",
  "failed",
  "disabled",
  "deleting",
  "reconnect_is_delayed",
] as const;

/** `unknown`: a state that is not in this list, for example of a newer release. */
export type ControllerState = (typeof CONTROLLER_STATES)[number] | "unknown";

export type Controller = {
  readonly name: string;
  /** More than one path if the controller was attached several times under the same name. */
  readonly paths: readonly { readonly state: ControllerState; readonly trid: TransportId }[];
};

/** SMART log of a controller. Counters start at manufacture and have 128 bits on the disk. */
export type ControllerHealth = {
  readonly modelNumber: string;
  readonly serialNumber: string;
  readonly firmwareRevision: string;
  readonly traddr: string;
  /** Bit mask of the SMART log; 0 = no warning. */
  readonly criticalWarning: number;
  /**
   * Undefined when the disk reports 0 K, which SPDK shows as 2^64 - 273
   * (docs/spdk-contract.md#detach-states-and-health).
   */
  readonly temperatureCelsius: number | undefined;
  readonly availableSparePercentage: number;
  readonly availableSpareThresholdPercentage: number;
  readonly percentageUsed: number;
  /** Units of 512,000 bytes. */
  readonly dataUnitsRead: bigint;
  readonly dataUnitsWritten: bigint;
  readonly hostReadCommands: bigint;
  readonly hostWriteCommands: bigint;
  readonly controllerBusyTimeMinutes: bigint;
  readonly powerCycles: bigint;
  readonly powerOnHours: bigint;
  readonly unsafeShutdowns: bigint;
  readonly mediaErrors: bigint;
  readonly errorLogEntries: bigint;
  readonly warningTemperatureTimeMinutes: bigint;
  readonly criticalTemperatureTimeMinutes: bigint;
};

/** One kind of I/O since the bdev was registered. Latencies are sums in ticks. */
export type IoCounters = {
  readonly bytes: bigint;
  readonly operations: bigint;
  readonly latencyTicks: bigint;
};

export type BdevIostat = {
  readonly name: string;
  readonly read: IoCounters;
  readonly write: IoCounters;
  readonly unmap: IoCounters;
  /** Number of errors by NVMe or bdev error name; empty when there were none. */
  readonly ioErrors: Readonly<Record<string, bigint>>;
};

export type Iostat = {
  /** Ticks per second. */
  readonly tickRate: bigint;
  readonly ticks: bigint;
  readonly bdevs: readonly BdevIostat[];
};

const transportId: Read<TransportId> = object((fields) => ({
  trtype: fields.get("trtype", text),
  traddr: fields.get("traddr", text),
  adrfam: fields.optional("adrfam", text),
  trsvcid: fields.optional("trsvcid", text),
  subnqn: fields.optional("subnqn", text),
}));

const rateLimits: Read<RateLimits> = object((fields) => ({
  rwIosPerSec: fields.get("rw_ios_per_sec", big),
  rwMbytesPerSec: fields.get("rw_mbytes_per_sec", big),
  rMbytesPerSec: fields.get("r_mbytes_per_sec", big),
  wMbytesPerSec: fields.get("w_mbytes_per_sec", big),
}));

const ioTypes: Read<Bdev["supports"]> = object((fields) => ({
  write: fields.get("write", flag),
  unmap: fields.get("unmap", flag),
  writeZeroes: fields.get("write_zeroes", flag),
}));

const lvolPart: Read<LvolBdev["lvol"]> = object((fields) => ({
  storeUuid: fields.get("lvol_store_uuid", text),
  baseBdev: fields.get("base_bdev", text),
  thin: fields.get("thin_provision", flag),
  snapshot: fields.get("snapshot", flag),
  clone: fields.get("clone", flag),
  allocatedClusters: fields.optional("num_allocated_clusters", big),
  baseSnapshot: fields.optional("base_snapshot", text),
  clones: fields.optional("clones", list(text)) ?? [],
}));

const nvmePath: Read<NvmePath> = object((fields) => ({
  trid: fields.get("trid", transportId),
  pciAddress: fields.optional("pci_address", text),
  ...fields.get(
    "ctrlr_data",
    object((data) => ({
      serialNumber: data.get("serial_number", text),
      modelNumber: data.get("model_number", text),
      firmwareRevision: data.get("firmware_revision", text),
    })),
  ),
  nsid: fields.get(
    "ns_data",
    object((data) => data.get("id", integer)),
  ),
}));

/**
 * The key below driver_specific names the bdev's driver; drivers other than lvol and nvme are
 * "other".
 */
const driverPart: Read<
  | { readonly kind: "lvol"; readonly lvol: LvolBdev["lvol"] }
  | { readonly kind: "nvme"; readonly paths: readonly NvmePath[] }
  | { readonly kind: "other" }
> = object((fields) => {
  const lvol = fields.optional("lvol", lvolPart);
  if (lvol !== undefined) return { kind: "lvol", lvol };
  const paths = fields.optional("nvme", list(nvmePath));
  return paths === undefined ? { kind: "other" } : { kind: "nvme", paths };
});

export const bdev: Read<Bdev> = object((fields) => {
  const blockSize = fields.get("block_size", integer);
  const numBlocks = fields.get("num_blocks", big);
  return {
    name: fields.get("name", text),
    aliases: fields.get("aliases", list(text)),
    uuid: fields.get("uuid", text),
    productName: fields.get("product_name", text),
    blockSize,
    numBlocks,
    sizeBytes: BigInt(blockSize) * numBlocks,
    claimed: fields.get("claimed", flag),
    claimType: fields.optional("claim_type", text),
    rateLimits: fields.get("assigned_rate_limits", rateLimits),
    supports: fields.get("supported_io_types", ioTypes),
    ...fields.get("driver_specific", driverPart),
  };
});

const controllerState: Read<ControllerState> = (value, place) => {
  const state = text(value, place);
  return CONTROLLER_STATES.find((known) => known === state) ?? "unknown";
};

export const controller: Read<Controller> = object((fields) => ({
  name: fields.get("name", text),
  paths: fields.get(
    "ctrlrs",
    list(
      object((path) => ({
        state: path.get("state", controllerState),
        trid: path.get("trid", transportId),
      })),
    ),
  ),
}));

/** A larger value is an underflow of a temperature below 273 K, not a temperature. */
const MAX_CELSIUS = 1_000n;

export const controllerHealth: Read<ControllerHealth> = object((fields) => {
  const celsius = fields.get("temperature_celsius", big);
  return {
    modelNumber: fields.get("model_number", text).trim(),
    serialNumber: fields.get("serial_number", text).trim(),
    firmwareRevision: fields.get("firmware_revision", text).trim(),
    traddr: fields.get("traddr", text),
    criticalWarning: fields.get("critical_warning", integer),
    temperatureCelsius: celsius > MAX_CELSIUS ? undefined : Number(celsius),
    availableSparePercentage: fields.get("available_spare_percentage", integer),
    availableSpareThresholdPercentage: fields.get("available_spare_threshold_percentage", integer),
    percentageUsed: fields.get("percentage_used", integer),
    dataUnitsRead: fields.get("data_units_read", big),
    dataUnitsWritten: fields.get("data_units_written", big),
    hostReadCommands: fields.get("host_read_commands", big),
    hostWriteCommands: fields.get("host_write_commands", big),
    controllerBusyTimeMinutes: fields.get("controller_busy_time", big),
    powerCycles: fields.get("power_cycles", big),
    powerOnHours: fields.get("power_on_hours", big),
    unsafeShutdowns: fields.get("unsafe_shutdowns", big),
    mediaErrors: fields.get("media_errors", big),
    errorLogEntries: fields.get("num_err_log_entries", big),
    warningTemperatureTimeMinutes: fields.get("warning_temperature_time_minutes", big),
    criticalTemperatureTimeMinutes: fields.get("critical_composite_temperature_time_minutes", big),
  };
});

const bdevIostat: Read<BdevIostat> = object((fields) => ({
  name: fields.get("name", text),
  read: ioCounters(fields, "read", "bytes_read"),
  write: ioCounters(fields, "write", "bytes_written"),
  unmap: ioCounters(fields, "unmap", "bytes_unmapped"),
  ioErrors: fields.optional("io_error", record(big)) ?? {},
}));

function ioCounters(fields: Fields, kind: "read" | "write" | "unmap", bytes: string): IoCounters {
  return {
    bytes: fields.get(bytes, big),
    operations: fields.get(`num_${kind}_ops`, big),
    latencyTicks: fields.get(`${kind}_latency_ticks`, big),
  };
}

export const iostat: Read<Iostat> = object((fields) => ({
  tickRate: fields.get("tick_rate", big),
  ticks: fields.get("ticks", big),
  bdevs: fields.get("bdevs", list(bdevIostat)),
}));

/** What a drive says that a deallocated block reads as; it may ignore Deallocate all the same. */
export type IdentifiedNamespace = {
  readonly deallocatedReads: "not reported" | "zeros" | "ones";
};

const DLFEAT_BYTE = 33;
const DEALLOCATED_READS = ["not reported", "zeros", "ones"] as const;

/** The answer of bdev_nvme_send_cmd to Identify Namespace; undefined: the drive has refused it. */
export const identifiedNamespace: Read<IdentifiedNamespace | undefined> = object((fields) => {
  const completion = Buffer.from(fields.get("cpl", text), "base64url");
  // The status field without its phase bit.
  if (completion.length < 16 || completion.readUInt16LE(14) >> 1 !== 0) return undefined;
  const data = Buffer.from(fields.optional("data", text) ?? "", "base64url");
  const feature = (data[DLFEAT_BYTE] ?? 0) & 0b111;
  return { deallocatedReads: DEALLOCATED_READS[feature] ?? "not reported" };
});
