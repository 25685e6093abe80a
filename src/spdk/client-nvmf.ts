// nvmf_* calls (CONTRACT section 7), under SPDK's own names. Changes of one NQN are ordered by the
// caller, and before 24.09 each waits for the answer of the last (Capabilities).

import { flag, integer, list } from "./fields.ts";
import {
  nvmfStats,
  subsystem,
  subsystemController,
  transport,
  type ListenAddress,
  type NvmfStats,
  type Subsystem,
  type SubsystemController,
  type Transport,
} from "./replies-nvmf.ts";
import { absentAsUndefined, type CallerOptions, type Rpc } from "./rpc.ts";

export type CreateSubsystem = {
  readonly nqn: string;
  /** At most 20 printable ASCII characters. */
  readonly serialNumber: string;
  /** At most 40 printable ASCII characters. */
  readonly modelNumber: string;
  readonly maxNamespaces: number;
  readonly allowAnyHost?: boolean;
};

export type AddNamespace = {
  readonly nqn: string;
  readonly bdevName: string;
  readonly nsid: number;
  readonly uuid: string;
  /** 32 hex digits. */
  readonly nguid: string;
};

export type ListenerOf = { readonly nqn: string; readonly address: ListenAddress };
export type HostOf = { readonly nqn: string; readonly host: string };

export function nvmfCalls(rpc: Rpc) {
  return { ...transportCalls(rpc), ...subsystemCalls(rpc), ...subsystemChanges(rpc) };
}

export type NvmfCalls = ReturnType<typeof nvmfCalls>;

function transportCalls(rpc: Rpc) {
  return {
    /** Unknown parameters are ignored by every release, so none but the type is sent. */
    async nvmfCreateTransport(trtype: string, options?: CallerOptions): Promise<void> {
      await rpc.change("nvmf_create_transport", { trtype }, flag, options);
    },

    async nvmfGetTransports(options?: CallerOptions): Promise<readonly Transport[]> {
      return await rpc.read("nvmf_get_transports", undefined, list(transport), options);
    },

    /** One answer of fixed size, whatever is exported. */
    async nvmfGetStats(options?: CallerOptions): Promise<NvmfStats> {
      return await rpc.read("nvmf_get_stats", undefined, nvmfStats, options);
    },
  };
}

function subsystemCalls(rpc: Rpc) {
  return {
    /** Every subsystem, the discovery one too, sorted by NQN: 66 ms of blocked I/O at 5,000. */
    async nvmfGetSubsystems(options?: CallerOptions): Promise<readonly Subsystem[]> {
      return await rpc.read("nvmf_get_subsystems", undefined, list(subsystem), {
        ...options,
        dump: true,
      });
    },

    async getSubsystem(nqn: string, options?: CallerOptions): Promise<Subsystem | undefined> {
      const found = rpc.read("nvmf_get_subsystems", { nqn }, list(subsystem), options);
      return (await absentAsUndefined(found))?.[0];
    },

    /** The hosts that are connected now. An unknown NQN is a vague error before 26.09. */
    async nvmfSubsystemGetControllers(
      nqn: string,
      options?: CallerOptions,
    ): Promise<readonly SubsystemController[]> {
      const controllers = list(subsystemController);
      return await rpc.read("nvmf_subsystem_get_controllers", { nqn }, controllers, options);
    },

    /** One error for an existing NQN, a malformed one and a full table. */
    async nvmfCreateSubsystem(
      { nqn, serialNumber, modelNumber, maxNamespaces, allowAnyHost }: CreateSubsystem,
      options?: CallerOptions,
    ): Promise<void> {
      const params = {
        nqn,
        serial_number: serialNumber,
        model_number: modelNumber,
        max_namespaces: maxNamespaces,
        allow_any_host: allowAnyHost,
      };
      await rpc.change("nvmf_create_subsystem", params, flag, options);
    },

    /** With its namespaces, listeners and hosts, connected or not. */
    async nvmfDeleteSubsystem(nqn: string, options?: CallerOptions): Promise<void> {
      await rpc.change("nvmf_delete_subsystem", { nqn }, flag, options);
    },
  };
}

function subsystemChanges(rpc: Rpc) {
  return {
    async nvmfSubsystemAddListener(listener: ListenerOf, options?: CallerOptions): Promise<void> {
      await rpc.change("nvmf_subsystem_add_listener", listenerParams(listener), flag, options);
    },

    async nvmfSubsystemRemoveListener(
      listener: ListenerOf,
      options?: CallerOptions,
    ): Promise<void> {
      await rpc.change("nvmf_subsystem_remove_listener", listenerParams(listener), flag, options);
    },

    /** The nsid. An lvol can be in one subsystem only. */
    async nvmfSubsystemAddNs(
      { nqn, bdevName, nsid, uuid, nguid }: AddNamespace,
      options?: CallerOptions,
    ): Promise<number> {
      const params = { nqn, namespace: { bdev_name: bdevName, nsid, uuid, nguid } };
      return await rpc.change("nvmf_subsystem_add_ns", params, integer, options);
    },

    async nvmfSubsystemRemoveNs(
      { nqn, nsid }: { readonly nqn: string; readonly nsid: number },
      options?: CallerOptions,
    ): Promise<void> {
      await rpc.change("nvmf_subsystem_remove_ns", { nqn, nsid }, flag, options);
    },

    async nvmfSubsystemAddHost({ nqn, host }: HostOf, options?: CallerOptions): Promise<void> {
      await rpc.change("nvmf_subsystem_add_host", { nqn, host }, flag, options);
    },

    /** A connected host is dropped at once. */
    async nvmfSubsystemRemoveHost({ nqn, host }: HostOf, options?: CallerOptions): Promise<void> {
      await rpc.change("nvmf_subsystem_remove_host", { nqn, host }, flag, options);
    },

    async nvmfSubsystemAllowAnyHost(
      { nqn, allowAnyHost }: { readonly nqn: string; readonly allowAnyHost: boolean },
      options?: CallerOptions,
    ): Promise<void> {
      const params = { nqn, allow_any_host: allowAnyHost };
      await rpc.change("nvmf_subsystem_allow_any_host", params, flag, options);
    },
  };
}

function listenerParams({ nqn, address: { trtype, adrfam, traddr, trsvcid } }: ListenerOf) {
  return { nqn, listen_address: { trtype, adrfam, traddr, trsvcid } };
}
