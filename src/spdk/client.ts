// The typed SPDK client: every method the agent calls, one file per family of methods. Callers
// import the type `SpdkClient` and select the methods they need with Pick.
//
// A method resolves with the parsed reply or throws SpdkError (the target answered an error),
// SpdkNotSent (the request was not sent) or SpdkUnknownOutcome (sent, effect unknown). Reads by
// name resolve with undefined if the object does not exist.

import type { Capabilities } from "./capabilities.ts";
import { bdevCalls, type BdevCalls } from "./client-bdev.ts";
import { lvolCalls, type LvolCalls } from "./client-lvol.ts";
import { nvmfCalls, type NvmfCalls } from "./client-nvmf.ts";
import type { SpdkConnection } from "./connection.ts";
import { list, text } from "./fields.ts";
import {
  notification,
  reactors,
  tracePid,
  version,
  type Notification,
  type Reactors,
  type Version,
} from "./replies-target.ts";
import { Rpc, type CallerOptions } from "./rpc.ts";
import type { StoreChanges } from "./store-changes.ts";

export type SpdkClient = TargetCalls & BdevCalls & LvolCalls & NvmfCalls;

/** changes: is told of every change of an lvol. */
export function spdkClient(connection: SpdkConnection, changes?: StoreChanges): SpdkClient {
  const rpc = new Rpc(connection, changes);
  return { ...targetCalls(rpc), ...bdevCalls(rpc), ...lvolCalls(rpc), ...nvmfCalls(rpc) };
}

function targetCalls(rpc: Rpc) {
  return {
    /** Capabilities of the connected release. Throws UnsupportedRelease below 24.01. */
    async capabilities(): Promise<Capabilities> {
      return await rpc.capabilities();
    },

    async spdkGetVersion(options?: CallerOptions): Promise<Version> {
      return await rpc.read("spdk_get_version", undefined, version, options);
    },

    async rpcGetMethods(options?: CallerOptions): Promise<readonly string[]> {
      return await rpc.read("rpc_get_methods", undefined, list(text), options);
    },

    /** Ticks of each reactor; the pid from 24.09 on. */
    async frameworkGetReactors(options?: CallerOptions): Promise<Reactors> {
      return await rpc.read("framework_get_reactors", undefined, reactors, options);
    },

    /** The pid as the name of the trace file has it (trace_get_info), for releases before 24.09. */
    async tracePid(options?: CallerOptions): Promise<number | undefined> {
      return await rpc.read("trace_get_info", undefined, tracePid, options);
    },

    /** Events from `id` on, at most the newest 1,024; older ones are lost, so it is only a hint. */
    async notifyGetNotifications(
      { id, max }: { readonly id?: number; readonly max?: number } = {},
      options?: CallerOptions,
    ): Promise<readonly Notification[]> {
      return await rpc.read("notify_get_notifications", { id, max }, list(notification), options);
    },
  };
}

type TargetCalls = ReturnType<typeof targetCalls>;
