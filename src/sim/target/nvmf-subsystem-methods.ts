// RPC methods on NVMe-oF transports and subsystems (docs/spdk-contract.md#nvme-of).
import { decode, flag, list, optional, required, text, unsigned } from "./decode.ts";
import type { JsonValue } from "./json.ts";
import { done, type Context, type Methods, type Started } from "./method.ts";
import { checkTargetName, subsystemNamed } from "./nvmf-change.ts";
import { TargetAbort } from "./operation.ts";
import { TICK_RATE } from "./process-identity.ts";
import { byNqn, isNqn, isPrintable } from "./nvmf-names.ts";
import { errno, noSubsystem, RpcError } from "./rpc-error.ts";
import { DISCOVERY_NQN, type Namespace, type Subsystem } from "./nvmf-objects.ts";
import type { Target } from "./target.ts";

const MAX_CNTLID = 65_519;
const DEFAULT_NAMESPACES = 32;
/** Blocks. */
const DEFAULT_DMRSL = 2_097_152;

export const nvmfSubsystemMethods: Methods = {
  nvmf_create_transport: createTransport,
  nvmf_get_transports: ({ target }, params) => {
    const shape = { trtype: optional(text), tgt_name: optional(text) };
    const { trtype, tgt_name: targetName } = decode(params, shape);
    checkTargetName(targetName);
    if (trtype === undefined) return done(target.transports.map(transportJson));
    const wanted = trtype.toUpperCase();
    if (!target.transports.includes(wanted)) throw errno("ENODEV");
    return done([transportJson(wanted)]);
  },
  nvmf_create_subsystem: createSubsystem,
  nvmf_delete_subsystem: deleteSubsystem,
  nvmf_get_subsystems: (context, params) => {
    const shape = { nqn: optional(text), tgt_name: optional(text) };
    const { nqn, tgt_name: targetName } = decode(params, shape);
    checkTargetName(targetName);
    const { target } = context;
    if (nqn === DISCOVERY_NQN && target.discovery) return done([discoveryJson(target)]);
    if (nqn !== undefined) return done([subsystemJson(subsystemNamed(context, nqn, undefined))]);
    const sorted = [...target.subsystems.values()].toSorted(byNqn).map(subsystemJson);
    return done(target.discovery ? [discoveryJson(target), ...sorted] : sorted);
  },
  nvmf_get_stats: ({ target }, params) => {
    checkTargetName(decode(params, { tgt_name: optional(text) }).tgt_name);
    return done({ tick_rate: TICK_RATE, poll_groups: [pollGroupJson(target)] });
  },
};

function createTransport({ target }: Context, params: JsonValue | undefined): Started {
  // Unknown parameters are ignored: they are transport-specific.
  const shape = {
    trtype: required(text),
    tgt_name: optional(text),
    masked_oncs: optional(list(text)),
  };
  const asked = decode(params, shape, { tolerant: true });
  const { trtype, tgt_name: targetName, masked_oncs: masked = [] } = asked;
  const type = trtype.toUpperCase();
  if (type !== "TCP" && type !== "RDMA") {
    throw new RpcError(-32602, `Invalid transport type '${trtype}'`);
  }
  checkTargetName(targetName);
  const exists = new RpcError(-32603, `Transport type '${trtype}' already exists`);
  if (target.transports.includes(type)) throw exists;
  return {
    kind: "later",
    polls: 0,
    complete: () => {
      if (type === "RDMA") throw new RpcError(-32603, "Failed to create transport.");
      if (target.transports.includes(type))
        throw new RpcError(-32603, "Failed to create transport.");
      target.transports.push(type);
      if (masked.includes("nvmdsmsv")) target.masksDiscard = true;
      return true;
    },
  };
}

/** One poll group with an admin and an I/O queue pair for each host that is connected to a subsystem. */
function pollGroupJson(target: Target): object {
  const connected = [...target.subsystems.values()].flatMap(({ controllers }) => controllers);
  return {
    name: "nvmf_tgt_poll_group_000",
    admin_qpairs: target.hostConnections,
    io_qpairs: target.hostConnections,
    current_admin_qpairs: connected.length,
    current_io_qpairs: connected.length,
    pending_bdev_io: 0,
    completed_nvme_io: target.completedIo,
    transports: target.transports.map((trtype) => ({ trtype })),
  };
}

function transportJson(trtype: string): object {
  return {
    trtype,
    max_queue_depth: 128,
    max_io_qpairs_per_ctrlr: 127,
    in_capsule_data_size: 4_096,
    max_io_size: 131_072,
    io_unit_size: 131_072,
    max_aq_depth: 128,
    iobuf_small_cache_size: 4_294_967_295,
    iobuf_large_cache_size: 4_294_967_295,
    dif_insert_or_strip: false,
    zcopy: false,
    c2h_success: true,
    sock_priority: 0,
    abort_timeout_sec: 1,
    ack_timeout: 0,
    data_wr_pool_size: 0,
    kas: 100,
    min_kato: 10_000,
    disable_command_passthru: false,
  };
}

function createSubsystem(context: Context, params: JsonValue | undefined): Started {
  const { target } = context;
  const asked = decode(params, {
    nqn: required(text),
    serial_number: optional(text),
    model_number: optional(text),
    tgt_name: optional(text),
    max_namespaces: optional(unsigned(32)),
    allow_any_host: optional(flag),
    ana_reporting: optional(flag),
    min_cntlid: optional(unsigned(16)),
    max_cntlid: optional(unsigned(16)),
    passthrough: optional(flag),
    enable_nssr: optional(flag),
    admin_label: optional(text),
    dmrsl: optional(unsigned(32)),
    wzsl: optional(unsigned(8)),
  });
  const { nqn, tgt_name: targetName } = asked;
  const { serial_number: serial = "0".repeat(20), model_number: model = "SPDK bdev Controller" } =
    asked;
  if (targetName !== undefined && targetName !== "nvmf_tgt") {
    throw new RpcError(-32603, `Unable to find target ${targetName}`);
  }
  const refused = new RpcError(-32603, `Unable to create subsystem ${nqn}`);
  // The discovery subsystem counts towards the limit.
  const full = target.subsystems.size + (target.discovery ? 1 : 0) >= target.maxSubsystems;
  const taken = target.subsystems.has(nqn) || (nqn === DISCOVERY_NQN && target.discovery);
  if (!isNqn(nqn) || taken || full) throw refused;
  if (!isPrintable(serial, 20)) throw new RpcError(-32602, `Invalid SN ${serial}`);
  if (!isPrintable(model, 40)) throw new RpcError(-32602, `Invalid MN ${model}`);
  const { min_cntlid: minCntlid = 1, max_cntlid: maxCntlid = MAX_CNTLID } = asked;
  if (minCntlid < 1 || maxCntlid > MAX_CNTLID || minCntlid > maxCntlid) {
    throw new RpcError(-32602, `Invalid cntlid range [${minCntlid}-${maxCntlid}]`);
  }
  target.subsystems.set(nqn, {
    nqn,
    serialNumber: serial,
    modelNumber: model,
    maxNamespaces: asked.max_namespaces === 0 ? DEFAULT_NAMESPACES : (asked.max_namespaces ?? 32),
    anaReporting: asked.ana_reporting ?? false,
    minCntlid,
    maxCntlid,
    allowAnyHost: asked.allow_any_host ?? false,
    passthrough: asked.passthrough ?? false,
    dmrsl: asked.dmrsl ?? DEFAULT_DMRSL,
    setsDmrsl: asked.dmrsl !== undefined,
    wzsl: asked.wzsl ?? 12,
    hosts: [],
    listeners: [],
    namespaces: new Map(),
    controllers: [],
    changing: [context.method],
    deleting: false,
  });
  const complete = () => {
    target.subsystems.get(nqn)?.changing.shift();
    return true;
  };
  return { kind: "later", polls: 0, order: `subsystem ${nqn}`, complete };
}

function deleteSubsystem(context: Context, params: JsonValue | undefined): Started {
  const { target, release, method, id } = context;
  const shape = { nqn: required(text), tgt_name: optional(text) };
  const { nqn, tgt_name: targetName } = decode(params, shape);
  checkTargetName(targetName);
  if (nqn === DISCOVERY_NQN && target.discovery) {
    target.discovery = false;
    target.discoveryListeners = [];
    return done(true);
  }
  const subsystem = target.subsystems.get(nqn);
  if (subsystem === undefined) throw noSubsystem(nqn);
  if (subsystem.deleting) throw new RpcError(-32603, "Subsystem is already being destroyed.");
  if (subsystem.changing.length > 0 && !release.queuesPerSubsystem) {
    const why = "Subsystem currently in another state change try again later.";
    throw new RpcError(-32603, why);
  }
  const listening = subsystem.changing.includes("nvmf_subsystem_add_listener");
  if (listening && release.diesOfDeleteDuringListener) {
    throw new TargetAbort(
      `${method} (id ${id}) of ${nqn} while nvmf_subsystem_add_listener of it runs (25.05)`,
    );
  }
  subsystem.deleting = true;
  return {
    kind: "later",
    polls: 0,
    order: `subsystem ${nqn}`,
    complete: () => {
      target.removeSubsystem(subsystem);
      return true;
    },
  };
}

function discoveryJson({ discoveryListeners }: Target): object {
  return {
    nqn: DISCOVERY_NQN,
    subtype: "Discovery",
    listen_addresses: discoveryListeners,
    allow_any_host: true,
    hosts: [],
  };
}

function subsystemJson(subsystem: Subsystem): object {
  const namespaces = [...subsystem.namespaces.values()].toSorted((a, b) => a.nsid - b.nsid);
  return {
    nqn: subsystem.nqn,
    subtype: "NVMe",
    listen_addresses: subsystem.listeners.map(({ address }) => address),
    allow_any_host: subsystem.allowAnyHost,
    hosts: subsystem.hosts.map((nqn) => ({ nqn })),
    serial_number: subsystem.serialNumber,
    model_number: subsystem.modelNumber,
    max_namespaces: subsystem.maxNamespaces,
    passthrough: subsystem.passthrough,
    min_cntlid: subsystem.minCntlid,
    max_cntlid: subsystem.maxCntlid,
    dmrsl: subsystem.dmrsl,
    wzsl: subsystem.wzsl,
    namespaces: namespaces.map((namespace) => namespaceJson(subsystem, namespace)),
  };
}

function namespaceJson({ anaReporting }: Subsystem, namespace: Namespace): object {
  const { nsid, bdev, nguid, eui64, uuid, anaGroup } = namespace;
  return {
    nsid,
    bdev_name: bdev.name,
    name: bdev.name,
    nguid,
    ...(eui64 === undefined ? {} : { eui64 }),
    uuid,
    ...(anaReporting ? { anagrpid: anaGroup } : {}),
  };
}
