// RPC methods on the target itself: version, methods, events, logging, framework
// (docs/spdk-contract.md#the-target-itself).
import { decode, flag, oneOf, optional, required, text, unsigned, DecodeFailed } from "./decode.ts";
import { done, type Methods } from "./method.ts";
import { reactorTicks, TICK_RATE } from "./process-identity.ts";
import type { Release } from "./release.ts";
import { errno, RpcError } from "./rpc-error.ts";
import { configOf } from "./saved-config.ts";
import type { Target } from "./target.ts";

const NOT_BEFORE_INIT =
  "Method may only be called before framework is initialized. Use --wait-for-rpc command line " +
  "parameter and then issue this RPC before the framework_start_init RPC.";

const startupOnly = () => {
  throw new RpcError(-1, NOT_BEFORE_INIT);
};

export function generalMethods(names: () => readonly string[]): Methods {
  return {
    spdk_get_version: ({ release }, params) => {
      if (params !== undefined) {
        throw new RpcError(-32602, "spdk_get_version method requires no parameters");
      }
      return done(release.version);
    },
    rpc_get_methods: (_context, params) => {
      try {
        decode(params, { current: optional(flag), include_aliases: optional(flag) });
      } catch (error) {
        if (error instanceof DecodeFailed) throw new RpcError(-32602, "Invalid parameters");
        throw error;
      }
      return done(names());
    },
    framework_wait_init: () => done(true),
    framework_start_init: startupOnly,
    framework_get_config: ({ target }, params) => {
      const { name } = decode(params, { name: required(text) });
      const config = configOf(target, name);
      if (config === undefined) throw new RpcError(-32602, `Subsystem '${name}' not found`);
      return done(config);
    },
    bdev_set_options: startupOnly,
    nvmf_set_max_subsystems: startupOnly,
    nvmf_set_config: startupOnly,
    log_set_level: ({ target }, params) => {
      const levels = ["ERROR", "WARNING", "NOTICE", "INFO", "DEBUG", "DISABLED"] as const;
      const { level } = decode(params, { level: required(oneOf(...levels)) });
      target.logLevel = level;
      return done(true);
    },
    log_get_level: ({ target }, params) => {
      if (params !== undefined) {
        throw new RpcError(-32602, "log_get_level requires no parameters");
      }
      return done(target.logLevel);
    },
    thread_get_stats: ({ target }) => {
      const thread = { name: "app_thread", id: 1, cpumask: "1", ...reactorTicks(target.process) };
      return done({ tick_rate: TICK_RATE, threads: [thread] });
    },
    framework_get_reactors: ({ target, release }) => done(reactorsJson(target, release)),
    trace_get_info: ({ target, release }) => done(traceJson(target, release)),
    nbd_get_disks: (_context, params) => {
      decode(params, { nbd_device: optional(text) });
      return done([]);
    },
    notify_get_types: ({ release }, params) => {
      if (params !== undefined) throw new RpcError(-32602, "No parameters required");
      return done(release.eventTypes);
    },
    notify_get_notifications: ({ target }, params) => {
      const shape = { id: optional(unsigned(64)), max: optional(unsigned(64)) };
      try {
        const { id = 0, max = Number.POSITIVE_INFINITY } = decode(params, shape);
        const from = target.events.filter((event) => event.id >= id);
        return done(from.slice(0, max));
      } catch (error) {
        if (!(error instanceof DecodeFailed)) throw error;
        throw new RpcError(-32602, errno("EINVAL").message);
      }
    },
  };
}

function reactorsJson({ process: { pid }, process }: Target, { showsPid }: Release): object {
  const reactor = {
    lcore: 0,
    ...(showsPid ? { tid: pid } : {}),
    ...reactorTicks(process),
    in_interrupt: false,
    lw_threads: [],
  };
  return { tick_rate: TICK_RATE, ...(showsPid ? { pid } : {}), reactors: [reactor] };
}

/** Releases that show the pid nowhere else have it in this path. */
function traceJson({ process: { pid } }: Target, { showsPid }: Release): object {
  const shm = showsPid ? "" : `/dev/shm/spdk_tgt_trace.pid${pid}`;
  return { tpoint_shm_path: shm, tpoint_group_mask: "0x0" };
}
