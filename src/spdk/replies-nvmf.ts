// Replies about NVMe-oF subsystems and transports (docs/spdk-contract.md#nvme-of), parsed once into
// exact types.

import { big, flag, integer, list, object, text, type Read } from "./fields.ts";

/** An address that hosts connect to. Every release identifies it by these four fields. */
export type ListenAddress = {
  readonly trtype: string;
  readonly adrfam: string;
  readonly traddr: string;
  readonly trsvcid: string;
};

export type Namespace = {
  readonly nsid: number;
  /** For an lvol, its uuid. */
  readonly bdevName: string;
  readonly uuid: string | undefined;
  /** 32 hex digits, upper case. */
  readonly nguid: string | undefined;
};

export type Subsystem = {
  readonly nqn: string;
  /** The discovery subsystem is listed too, with no serial and no namespaces. */
  readonly subtype: "NVMe" | "Discovery";
  /** The last added first. */
  readonly listenAddresses: readonly ListenAddress[];
  readonly allowAnyHost: boolean;
  /** Host NQNs, the last added first. */
  readonly hosts: readonly string[];
  readonly serialNumber: string | undefined;
  readonly modelNumber: string | undefined;
  readonly maxNamespaces: number | undefined;
  /** Logical blocks that one range of a host's discard may have; undefined before 26.05. */
  readonly dmrsl: number | undefined;
  readonly namespaces: readonly Namespace[];
};

export type Transport = {
  readonly trtype: string;
  readonly maxQueueDepth: number;
  readonly maxIoQpairsPerCtrlr: number;
  readonly inCapsuleDataSize: number;
  readonly maxIoSize: number;
};

/** A host's connection to one subsystem. */
export type SubsystemController = {
  readonly cntlid: number;
  readonly hostNqn: string;
  readonly hostId: string;
  readonly numIoQpairs: number;
};

/** Host connections, summed over all poll groups: a host has one admin queue pair per subsystem. */
export type NvmfStats = {
  /** Number made since the target started. */
  readonly adminQpairs: number;
  readonly currentAdminQpairs: number;
  /** I/O of hosts that was completed since the target started. */
  readonly completedIo: bigint;
};

const listenAddress: Read<ListenAddress> = object((fields) => ({
  trtype: fields.get("trtype", text),
  adrfam: fields.get("adrfam", text),
  traddr: fields.get("traddr", text),
  trsvcid: fields.get("trsvcid", text),
}));

const namespace: Read<Namespace> = object((fields) => ({
  nsid: fields.get("nsid", integer),
  bdevName: fields.get("bdev_name", text),
  uuid: fields.optional("uuid", text),
  nguid: fields.optional("nguid", text),
}));

export const subsystem: Read<Subsystem> = object((fields) => ({
  nqn: fields.get("nqn", text),
  subtype: fields.get("subtype", text) === "NVMe" ? "NVMe" : "Discovery",
  listenAddresses: fields.get("listen_addresses", list(listenAddress)),
  allowAnyHost: fields.get("allow_any_host", flag),
  hosts: fields.get("hosts", list(object((host) => host.get("nqn", text)))),
  serialNumber: fields.optional("serial_number", text),
  modelNumber: fields.optional("model_number", text),
  maxNamespaces: fields.optional("max_namespaces", integer),
  dmrsl: fields.optional("dmrsl", integer),
  namespaces: fields.optional("namespaces", list(namespace)) ?? [],
}));

export const transport: Read<Transport> = object((fields) => ({
  trtype: fields.get("trtype", text),
  maxQueueDepth: fields.get("max_queue_depth", integer),
  maxIoQpairsPerCtrlr: fields.get("max_io_qpairs_per_ctrlr", integer),
  inCapsuleDataSize: fields.get("in_capsule_data_size", integer),
  maxIoSize: fields.get("max_io_size", integer),
}));

export const subsystemController: Read<SubsystemController> = object((fields) => ({
  cntlid: fields.get("cntlid", integer),
  hostNqn: fields.get("hostnqn", text),
  hostId: fields.get("hostid", text),
  numIoQpairs: fields.get("num_io_qpairs", integer),
}));

const pollGroup = object((fields) => ({
  adminQpairs: fields.get("admin_qpairs", integer),
  currentAdminQpairs: fields.get("current_admin_qpairs", integer),
  completedIo: fields.get("completed_nvme_io", big),
}));

export const nvmfStats: Read<NvmfStats> = object((fields) => {
  const groups = fields.get("poll_groups", list(pollGroup));
  const sum = (of: (group: NvmfStats) => number) =>
    groups.reduce((total, group) => total + of(group), 0);
  return {
    adminQpairs: sum((group) => group.adminQpairs),
    currentAdminQpairs: sum((group) => group.currentAdminQpairs),
    completedIo: groups.reduce((total, group) => total + group.completedIo, 0n),
  };
});
