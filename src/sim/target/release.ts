// The releases of SPDK that the simulator can be (VERSIONS.md, measured on 24.01, 25.05.1, 26.09-pre).
// The methods speak the newest one; what an older one takes, answers and refuses differently is here,
// at the edges: before the params are decoded, after the answer is made.
import { DecodeFailed } from "./decode.ts";
import { JsonNumber, JsonObject, type JsonValue } from "./json.ts";
import { RpcError } from "./rpc-error.ts";

export const RELEASES = ["24.01", "25.05", "26.09"] as const;
export type ReleaseName = (typeof RELEASES)[number];

type Plain = Readonly<Record<string, unknown>>;

export type Release = {
  readonly name: ReleaseName;
  readonly version: Plain;
  /** A longer request, or one of more JSON values, and the connection is closed. */
  readonly requestBytes: number;
  readonly requestValues: number;
  readonly batches: boolean;
  readonly eventTypes: readonly string[];
  /** A second change of a subsystem while one runs: queued, or answered as busy. */
  readonly queuesPerSubsystem: boolean;
  /** nvmf_delete_subsystem while add_listener of it runs takes the target down. */
  readonly diesOfDeleteDuringListener: boolean;
  /** The same listener or host once more is fine. */
  readonly repeatsAccess: boolean;
  /** Limits that were set while nobody had the bdev open cannot be set again. */
  readonly sticksToQos: boolean;
  /** A volume made read-only shows it at once, and not only after a reload. */
  readonly showsReadOnlyAtOnce: boolean;
  /** Writing into what was grown beyond a snapshot of a thick volume takes the target down. */
  readonly diesOfGrownClone: boolean;
  readonly absent: ReadonlySet<string>;
  /** Params as the newest release takes them. Throws DecodeFailed for what this one does not know. */
  readonly params: (method: string, params: JsonValue | undefined) => JsonValue | undefined;
  readonly result: (method: string, result: unknown) => unknown;
  readonly error: (method: string, error: RpcError) => RpcError;
};

const V26_09: Release = {
  name: "26.09",
  version: versionOf([26, 9, 0], "-pre", "3230130e6"),
  requestBytes: 262_144,
  requestValues: 8_192,
  batches: true,
  eventTypes: [
    "fsdev_register",
    "fsdev_unregister",
    "bdev_register",
    "bdev_unregister",
    "bdev_resize",
  ],
  queuesPerSubsystem: true,
  diesOfDeleteDuringListener: false,
  repeatsAccess: false,
  sticksToQos: true,
  showsReadOnlyAtOnce: false,
  diesOfGrownClone: false,
  absent: new Set(),
  params: (_method, params) => params,
  result: (_method, result) => result,
  error: (_method, error) =>
    /^Invalid (SN|MN) /.test(error.message) ? new RpcError(-32602, "Invalid parameters") : error,
};

const SINCE_26_09 = ["bdev_get_histogram_borders", "bdev_error_resume_pending", "trace_clear"];
const SINCE_25_05 = [
  "nvmf_ns_add_host",
  "keyring_file_add_key",
  "nvmf_subsystem_set_keys",
  "bdev_lvol_set_parent",
  "bdev_lvol_start_shallow_copy",
];

const V25_05: Release = {
  ...V26_09,
  name: "25.05",
  version: versionOf([25, 5, 1], "", "44b23be7c3"),
  requestBytes: 32_768,
  requestValues: 1_024,
  batches: false,
  eventTypes: ["fsdev_register", "fsdev_unregister", "bdev_register", "bdev_unregister"],
  diesOfDeleteDuringListener: true,
  sticksToQos: false,
  showsReadOnlyAtOnce: true,
  absent: new Set(SINCE_26_09),
  params: (method, params) => {
    if (!(params instanceof JsonObject)) return params;
    switch (method) {
      case "bdev_get_iostat":
        return oneName(params);
      case "nvmf_create_subsystem":
        refuse(params, "enable_nssr", "admin_label");
        return without(params, "max_discard_size_kib");
      case "nvmf_subsystem_remove_host":
        refuse(params, "timeout_ms");
        return params;
      default:
        return params;
    }
  },
  result: olderResult,
  error: olderError,
};

const V24_01: Release = {
  ...V25_05,
  name: "24.01",
  version: versionOf([24, 1, 0], "", "0786843e99"),
  eventTypes: ["bdev_register", "bdev_unregister"],
  queuesPerSubsystem: false,
  diesOfDeleteDuringListener: false,
  repeatsAccess: true,
  diesOfGrownClone: true,
  absent: new Set([...SINCE_26_09, ...SINCE_25_05]),
  params: (method, params) => {
    const older = V25_05.params(method, params);
    if (!(older instanceof JsonObject)) return older;
    switch (method) {
      case "bdev_lvol_resize":
      case "bdev_lvol_create":
        // Left out it is nothing, and so is the volume then.
        return older.get("size_in_mib") === undefined
          ? new JsonObject([...older.entries, ["size_in_mib", new JsonNumber("0")]])
          : older;
      case "nvmf_create_subsystem":
        refuse(older, "passthrough");
        return older;
      case "nvmf_subsystem_add_host":
        // Accepted and ignored: the host needs no key to connect.
        return without(older, "dhchap_key", "dhchap_ctrlr_key");
      case "nvmf_subsystem_add_ns": {
        const namespace = older.get("namespace");
        if (namespace instanceof JsonObject) refuse(namespace, "no_auto_visible");
        return older;
      }
      case "log_set_level":
        return new JsonObject(
          older.entries.map(([key, value]) => [
            key,
            typeof value === "string" ? value.toUpperCase() : value,
          ]),
        );
      default:
        return older;
    }
  },
  result: (method, result) => oldestResult(method, V25_05.result(method, result)),
};

const BY_NAME: Readonly<Record<ReleaseName, Release>> = {
  "24.01": V24_01,
  "25.05": V25_05,
  "26.09": V26_09,
};

export function releaseNamed(name: ReleaseName): Release {
  return BY_NAME[name];
}

function versionOf(
  [major, minor, patch]: readonly [number, number, number],
  suffix: string,
  commit: string,
): Plain {
  const dotted = `${major}.${String(minor).padStart(2, "0")}${patch === 0 ? "" : `.${patch}`}`;
  return {
    version: `SPDK v${dotted}${suffix} git sha1 ${commit} (simulated)`,
    fields: { major, minor, patch, suffix, commit },
  };
}

function refuse(params: JsonObject, ...names: readonly string[]): void {
  const unknown = names.find((name) => params.get(name) !== undefined);
  if (unknown !== undefined) throw new DecodeFailed(`unknown field ${unknown}`);
}

function without(params: JsonObject, ...names: readonly string[]): JsonObject {
  return new JsonObject(params.entries.filter(([key]) => !names.includes(key)));
}

/** bdev_get_iostat knows `name`; `names` came later. */
function oneName(params: JsonObject): JsonObject {
  refuse(params, "names");
  return new JsonObject(
    params.entries.map(([key, value]) => (key === "name" ? ["names", [value]] : [key, value])),
  );
}

const DROPPED: Readonly<Record<string, readonly string[]>> = {
  bdev_lvol_get_lvstores: ["max_growable_size"],
  nvmf_get_subsystems: ["passthrough", "dmrsl", "wzsl"],
  nvmf_subsystem_get_controllers: ["cntrltype"],
  nvmf_get_transports: [
    "iobuf_small_cache_size",
    "iobuf_large_cache_size",
    "kas",
    "min_kato",
    "disable_command_passthru",
  ],
};

function olderResult(method: string, result: unknown): unknown {
  if (!Array.isArray(result)) return result;
  const dropped = DROPPED[method] ?? [];
  return result.map((one: unknown) => {
    if (!isPlain(one)) return one;
    const kept = drop(one, dropped);
    if (method === "nvmf_get_transports") {
      return { ...kept, num_shared_buffers: 511, buf_cache_size: 4_294_967_295 };
    }
    const { supported_io_types: types } = kept;
    if (method !== "bdev_get_bdevs" || !isPlain(types)) return kept;
    return { ...kept, supported_io_types: drop(types, ["nvme_nssr", "write_uncorrectable"]) };
  });
}

function oldestResult(method: string, result: unknown): unknown {
  if (!Array.isArray(result)) return result;
  return result.map((one: unknown) => {
    if (!isPlain(one)) return one;
    switch (method) {
      case "bdev_lvol_get_lvols":
        return drop(one, ["num_allocated_clusters"]);
      case "bdev_get_bdevs":
        return withoutAllocated(one);
      case "nvmf_get_transports":
        return drop(one, ["ack_timeout", "data_wr_pool_size"]);
      case "nvmf_get_subsystems":
        return withTransports(one);
      case "nvmf_subsystem_get_qpairs":
        return { ...drop(one, ["hostnqn", "peer_address", "thread"]), state: "active" };
      default:
        return one;
    }
  });
}

function withoutAllocated(bdev: Plain): Plain {
  const { driver_specific: specific } = bdev;
  if (!isPlain(specific) || !isPlain(specific["lvol"])) return bdev;
  return { ...bdev, driver_specific: { lvol: drop(specific["lvol"], ["num_allocated_clusters"]) } };
}

function withTransports(subsystem: Plain): Plain {
  const { listen_addresses: addresses } = subsystem;
  if (!Array.isArray(addresses)) return subsystem;
  const listed = addresses.map((one: unknown) =>
    isPlain(one) ? { transport: one["trtype"], ...one } : one,
  );
  return { ...subsystem, listen_addresses: listed };
}

/** Before 26.09: one text for most mistakes, and a few codes of their own (VERSIONS section 3). */
function olderError(method: string, error: RpcError): RpcError {
  const { code, message } = error;
  const unknownNqn = /^Subsystem with NQN '(.*)' not found$/.exec(message);
  if (unknownNqn !== null) {
    if (method === "nvmf_get_subsystems") return new RpcError(-19, "No such device");
    if (method === "nvmf_subsystem_listener_set_ana_state") {
      return new RpcError(-32602, `Unable to find subsystem with NQN ${unknownNqn[1]}`);
    }
    return new RpcError(-32602, "Invalid parameters");
  }
  if (/^NVMf target '.*' not found$/.test(message)) {
    return new RpcError(-32603, "Unable to find a target.");
  }
  if (message === "Invalid nguid" || message === "Invalid eui64") {
    return new RpcError(-32602, "Invalid parameters");
  }
  if (method === "bdev_nvme_get_controllers" && code === -22) return new RpcError(22, message);
  if (method === "bdev_nvme_attach_controller" && code === -5) {
    return new RpcError(-19, "No such device");
  }
  return error;
}

function drop(from: Plain, names: readonly string[]): Plain {
  return Object.fromEntries(Object.entries(from).filter(([key]) => !names.includes(key)));
}

function isPlain(value: unknown): value is Plain {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
