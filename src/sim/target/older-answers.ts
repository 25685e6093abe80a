// Answers of the newest release in the words of an older one: fields that it does not have, messages
// and codes that it has instead (docs/spdk-contract.md#release-differences).
import { RpcError } from "./rpc-error.ts";

type Plain = Readonly<Record<string, unknown>>;

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

export function olderResult(method: string, result: unknown): unknown {
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

export function oldestResult(method: string, result: unknown): unknown {
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

/**
 * Before 26.09: one message for most errors, and some other codes
 * (docs/spdk-contract.md#error-texts).
 */
export function olderError(method: string, error: RpcError): RpcError {
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
