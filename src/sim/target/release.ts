// Differences between the SPDK releases the simulator supports
// (docs/spdk-contract.md#release-differences, measured on 24.01, 25.05.1, 26.09-pre; 26.01 is 25.05 with
// what its source has in addition). The methods
// implement the newest one; an older release translates params before they are decoded, and results
// and errors before they are sent.
import { DecodeFailed } from "./decode.ts";
import { JsonNumber, JsonObject, type JsonValue } from "./json.ts";
import { olderError, olderResult, oldestResult } from "./older-answers.ts";
import { RpcError } from "./rpc-error.ts";

export const RELEASES = ["24.01", "25.05", "26.01", "26.09"] as const;
export type ReleaseName = (typeof RELEASES)[number];

type Plain = Readonly<Record<string, unknown>>;

export type Release = {
  readonly name: ReleaseName;
  readonly version: Plain;
  /** Limits in bytes and JSON values: a request beyond either closes the connection. */
  readonly requestBytes: number;
  readonly requestValues: number;
  readonly batches: boolean;
  readonly eventTypes: readonly string[];
  /**
   * Whether a change of a subsystem with another in progress is queued; otherwise it fails as busy.
   */
  readonly queuesPerSubsystem: boolean;
  /**
   * nvmf_delete_subsystem while nvmf_subsystem_add_listener on it is in progress crashes the
   * target.
   */
  readonly diesOfDeleteDuringListener: boolean;
  /** Adding a listener or host a second time succeeds. */
  readonly repeatsAccess: boolean;
  /** QoS limits set while the bdev was not open cannot be changed again. */
  readonly sticksToQos: boolean;
  /** A bdev made read-only is listed so at once; otherwise only after a reload of the store. */
  readonly showsReadOnlyAtOnce: boolean;
  /** Writing beyond the size of a thick snapshot into its grown clone crashes the target. */
  readonly diesOfGrownClone: boolean;
  /** A host's discard of whole clusters of a thin lvol returns them to the store. */
  readonly hostDiscardsFree: boolean;
  /** framework_get_reactors shows the pid; else the path of trace_get_info has it. */
  readonly showsPid: boolean;
  readonly absent: ReadonlySet<string>;
  /**
   * Translates params to the newest release. Throws DecodeFailed for fields this release rejects.
   */
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
  hostDiscardsFree: true,
  showsPid: true,
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
        refuse(params, "enable_nssr", "admin_label", "dmrsl", "wzsl");
        return without(params, "max_discard_size_kib");
      case "nvmf_create_transport":
        // Ignored here, as every unknown parameter.
        return without(params, "masked_oncs");
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

const V26_01: Release = {
  ...V25_05,
  name: "26.01",
  version: versionOf([26, 1, 0], "", "0000000000"),
  eventTypes: V26_09.eventTypes,
  params: (method, params) => {
    if (method === "nvmf_create_transport") return params;
    const both = method === "bdev_get_iostat" && params instanceof JsonObject;
    return both && params.get("names") !== undefined ? params : V25_05.params(method, params);
  },
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
  hostDiscardsFree: false,
  showsPid: false,
  absent: new Set([...SINCE_26_09, ...SINCE_25_05]),
  params: (method, params) => {
    const older = V25_05.params(method, params);
    if (!(older instanceof JsonObject)) return older;
    switch (method) {
      case "bdev_lvol_resize":
      case "bdev_lvol_create":
        // A missing size counts as 0 and creates an empty lvol.
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
  "26.01": V26_01,
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

/** bdev_get_iostat takes `name` here; `names` was added in a later release. */
function oneName(params: JsonObject): JsonObject {
  refuse(params, "names");
  return new JsonObject(
    params.entries.map(([key, value]) => (key === "name" ? ["names", [value]] : [key, value])),
  );
}
