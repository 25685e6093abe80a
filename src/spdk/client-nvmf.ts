// nvmf_* calls (docs/spdk-contract.md#nvme-of), named after the SPDK methods. The caller orders the
// changes of one NQN; before 24.09 it must wait for each answer before the next change
// (pipelinePerSubsystem).

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
  /** Logical blocks that one range of a host's discard may have; 26.05 and later. */
  readonly dmrsl?: number | undefined;
};

export type CreateTransport = {
  readonly trtype: string;
  /** Refuses discards of hosts; 26.01 and later, ignored in silence by older releases. */
  readonly maskDiscards: boolean;
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
    /** Every release silently ignores parameters that it does not know. */
    async nvmfCreateTransport(
      { trtype, maskDiscards }: CreateTransport,
      options?: CallerOptions,
    ): Promise<void> {
      const params = { trtype, masked_oncs: maskDiscards ? ["nvmdsmsv"] : undefined };
      await rpc.change("nvmf_create_transport", params, flag, options);
    },

    async nvmfGetTransports(options?: CallerOptions): Promise<readonly Transport[]> {
      return await rpc.read("nvmf_get_transports", undefined, list(transport), options);
    },

    /** The size of the answer does not depend on the number of exports. */
    async nvmfGetStats(options?: CallerOptions): Promise<NvmfStats> {
      return await rpc.read("nvmf_get_stats", undefined, nvmfStats, options);
    },
  };
}

function subsystemCalls(rpc: Rpc) {
  return {
    /**
     * Every subsystem, the discovery subsystem included, sorted by NQN. Blocks I/O on the target
     * for 66 ms at 5,000 subsystems.
     */
    async nvmfGetSubsystems(options?: CallerOptions): Promise<readonly Subsystem[]> {
      return await rpc.read("nvmf_get_subsystems", undefined, list(subsystem), {
        ...options,
        dump: true,
      });
    },

    /** Undefined when there is no such subsystem. */
    async getSubsystem(nqn: string, options?: CallerOptions): Promise<Subsystem | undefined> {
      const found = rpc.read("nvmf_get_subsystems", { nqn }, list(subsystem), options);
      return (await absentAsUndefined(found))?.[0];
    },

    /** The hosts connected now. For an unknown NQN, releases before 26.09 answer a vague error. */
    async nvmfSubsystemGetControllers(
      nqn: string,
      options?: CallerOptions,
    ): Promise<readonly SubsystemController[]> {
      const controllers = list(subsystemController);
      return await rpc.read("nvmf_subsystem_get_controllers", { nqn }, controllers, options);
    },

    /**
     * SPDK answers the same error for an existing NQN, a malformed NQN and a full subsystem table.
     */
    async nvmfCreateSubsystem(
      { nqn, serialNumber, modelNumber, maxNamespaces, allowAnyHost, dmrsl }: CreateSubsystem,
      options?: CallerOptions,
    ): Promise<void> {
      const params = {
        nqn,
        serial_number: serialNumber,
        model_number: modelNumber,
        max_namespaces: maxNamespaces,
        allow_any_host: allowAnyHost,
        dmrsl,
      };
      await rpc.change("nvmf_create_subsystem", params, flag, options);
    },

    /** Also removes its namespaces, listeners and hosts, even while hosts are connected. */
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

    /** Returns the nsid. An lvol can be a namespace of one subsystem only. */
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

    /** Disconnects the host at once if it is connected. */
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
