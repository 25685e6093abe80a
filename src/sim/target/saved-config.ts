// The configuration as framework_get_config and save_config print it: the methods that make what
// runs now. Lvols are in none: they lie on their disks.
import { DISCOVERY_NQN, type Address, type Subsystem } from "./nvmf-objects.ts";
import type { Target } from "./target.ts";

export type ConfigEntry = { readonly method: string; readonly params?: object };

export function configOf(target: Target, subsystem: string): readonly ConfigEntry[] | undefined {
  switch (subsystem) {
    case "bdev":
      return bdevConfig(target);
    case "nvmf":
      return nvmfConfig(target);
    case "sock":
    case "iobuf":
      return [];
    default:
      return undefined;
  }
}

function bdevConfig({ controllers }: Target): readonly ConfigEntry[] {
  const attached = [...controllers.values()].flatMap(({ name, paths }) =>
    paths.map(({ trtype, traddr, adrfam, trsvcid, subnqn }) => ({
      method: "bdev_nvme_attach_controller",
      params: {
        name,
        trtype: trtype.toUpperCase() === "PCIE" ? "PCIe" : trtype.toUpperCase(),
        traddr,
        ...(adrfam === undefined ? {} : { adrfam }),
        ...(trsvcid === undefined ? {} : { trsvcid }),
        ...(subnqn === undefined ? {} : { subnqn }),
        multipath: "multipath",
      },
    })),
  );
  return [...attached, { method: "bdev_wait_for_examine" }];
}

function nvmfConfig(target: Target): readonly ConfigEntry[] {
  const transports = target.transports.map((trtype) => ({
    method: "nvmf_create_transport",
    params: { trtype, ...(target.masksDiscard ? { masked_oncs: ["nvmdsmsv"] } : {}) },
  }));
  const discovery = target.discoveryListeners.map((address) => listens(DISCOVERY_NQN, address));
  return [
    { method: "nvmf_set_max_subsystems", params: { max_subsystems: target.maxSubsystems } },
    ...transports,
    ...discovery,
    ...[...target.subsystems.values()].flatMap(subsystemConfig),
  ];
}

/** Hosts and namespaces come before listeners. */
function subsystemConfig(subsystem: Subsystem): readonly ConfigEntry[] {
  const { nqn, hosts, namespaces, listeners } = subsystem;
  const created = {
    nqn,
    allow_any_host: subsystem.allowAnyHost,
    serial_number: subsystem.serialNumber,
    model_number: subsystem.modelNumber,
    max_namespaces: subsystem.maxNamespaces,
    min_cntlid: subsystem.minCntlid,
    max_cntlid: subsystem.maxCntlid,
    ana_reporting: subsystem.anaReporting,
    ...(subsystem.passthrough ? { passthrough: true } : {}),
    ...(subsystem.setsDmrsl ? { dmrsl: subsystem.dmrsl } : {}),
  };
  return [
    { method: "nvmf_create_subsystem", params: created },
    ...hosts.toReversed().map((host) => ({
      method: "nvmf_subsystem_add_host",
      params: { nqn, host },
    })),
    ...[...namespaces.values()].map(({ nsid, bdev, nguid, uuid }) => ({
      method: "nvmf_subsystem_add_ns",
      params: { nqn, namespace: { nsid, bdev_name: bdev.name, nguid, uuid } },
    })),
    ...listeners.toReversed().map(({ address }) => listens(nqn, address)),
  ];
}

function listens(nqn: string, address: Address): ConfigEntry {
  return { method: "nvmf_subsystem_add_listener", params: { nqn, listen_address: address } };
}
