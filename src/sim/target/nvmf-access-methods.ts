// RPC methods on listeners, namespaces and allowed hosts of a subsystem
// (docs/spdk-contract.md#nvme-of).
import { decode, flag, object, oneOf, optional, required, text, unsigned } from "./decode.ts";
import type { JsonValue } from "./json.ts";
import { done, type Context, type Methods, type Started } from "./method.ts";
import { isDiscovery, startDiscovery, stopDiscovery } from "./nvmf-discovery.ts";
import { changeSubsystem, subsystemNamed } from "./nvmf-change.ts";
import { addressOf, canListen, isNqn, isUuid, listenAddress, sameAddress } from "./nvmf-names.ts";
import { nvmfInvalid, RpcError } from "./rpc-error.ts";
import { announceNamespaces, dropHosts } from "./host-connections.ts";
import { TargetAbort } from "./operation.ts";
import type { Listener, Subsystem } from "./nvmf-objects.ts";
import type { Bdev } from "./target.ts";

const anaState = oneOf("optimized", "non_optimized", "inaccessible");
const named = { nqn: required(text), tgt_name: optional(text) };
const listening = { ...named, listen_address: required(listenAddress) };

const internal = () => new RpcError(-32603, "Internal error");

export const nvmfAccessMethods: Methods = {
  nvmf_subsystem_add_listener: addListener,
  nvmf_subsystem_remove_listener: (context, params) => {
    const asked = decode(params, listening);
    if (isDiscovery(context, asked.nqn)) return stopDiscovery(context, asked.listen_address);
    const subsystem = subsystemNamed(context, asked.nqn, asked.tgt_name);
    const address = addressOf(asked.listen_address);
    return changeSubsystem(context, subsystem, () => {
      const others = subsystem.listeners.filter((one) => !sameAddress(one.address, address));
      if (others.length === subsystem.listeners.length) throw nvmfInvalid();
      subsystem.listeners = others;
      // Hosts that came through it are disconnected; they queue their I/O and ask again.
      dropHosts(subsystem, (one) => sameAddress(one.address, address));
      return true;
    });
  },
  nvmf_subsystem_get_listeners: (context, params) => {
    const { nqn, tgt_name: targetName } = decode(params, named);
    if (isDiscovery(context, nqn)) {
      return done(context.target.discoveryListeners.map((address) => ({ address })));
    }
    const subsystem = subsystemNamed(context, nqn, targetName);
    return done(subsystem.listeners.map((listener) => listenerJson(subsystem, listener)));
  },
  nvmf_subsystem_listener_set_ana_state: setAnaState,
  nvmf_subsystem_add_ns: addNamespace,
  nvmf_subsystem_remove_ns: (context, params) => {
    const {
      nqn,
      tgt_name: targetName,
      nsid,
    } = decode(params, { ...named, nsid: required(unsigned(32)) });
    const subsystem = subsystemNamed(context, nqn, targetName);
    return changeSubsystem(context, subsystem, () => {
      const namespace = subsystem.namespaces.get(nsid);
      if (namespace === undefined) throw nvmfInvalid();
      subsystem.namespaces.delete(nsid);
      namespace.bdev.exportedBy = undefined;
      announceNamespaces(subsystem);
      return true;
    });
  },
  nvmf_subsystem_add_host: (context, params) => {
    const shape = { ...named, host: required(text), dhchap_key: optional(text) };
    const asked = decode(params, shape, { tolerant: true });
    const { nqn, tgt_name: targetName, host, dhchap_key: key } = asked;
    const subsystem = subsystemNamed(context, nqn, targetName);
    // The simulator has no keyring: every key is unknown.
    if (key !== undefined) throw nvmfInvalid();
    if (context.release.repeatsAccess && subsystem.hosts.includes(host)) return done(true);
    if (!isNqn(host) || subsystem.hosts.includes(host)) throw internal();
    subsystem.hosts = [host, ...subsystem.hosts];
    return done(true);
  },
  nvmf_subsystem_remove_host: (context, params) => {
    const shape = { ...named, host: required(text), timeout_ms: optional(unsigned(32)) };
    const { nqn, tgt_name: targetName, host } = decode(params, shape);
    const subsystem = subsystemNamed(context, nqn, targetName);
    if (!subsystem.hosts.includes(host)) throw internal();
    return changeSubsystem(context, subsystem, () => {
      subsystem.hosts = subsystem.hosts.filter((one) => one !== host);
      // A host that is no longer allowed is disconnected.
      if (!subsystem.allowAnyHost) dropHosts(subsystem, ({ hostNqn }) => hostNqn === host);
      return true;
    });
  },
  nvmf_subsystem_allow_any_host: (context, params) => {
    const shape = { ...named, allow_any_host: required(flag) };
    const asked = decode(params, shape);
    subsystemNamed(context, asked.nqn, asked.tgt_name).allowAnyHost = asked.allow_any_host;
    return done(true);
  },
  nvmf_subsystem_get_controllers: (context, params) => {
    const { nqn, tgt_name: targetName } = decode(params, named);
    const { controllers } = subsystemNamed(context, nqn, targetName);
    return done(
      controllers.map(({ cntlid, hostNqn }) => ({
        cntlid,
        cntrltype: "io",
        hostnqn: hostNqn,
        hostid: "00000000-0000-4000-8000-000000000000",
        num_io_qpairs: 1,
      })),
    );
  },
  nvmf_subsystem_get_qpairs: (context, params) => {
    const { nqn, tgt_name: targetName } = decode(params, named);
    const { controllers } = subsystemNamed(context, nqn, targetName);
    // An admin queue and one for I/O.
    const pairs = controllers.flatMap((one) => [0, 1].map((qid) => ({ ...one, qid })));
    return done(
      pairs.map(({ cntlid, hostNqn, address, qid }) => ({
        cntlid,
        qid,
        state: "enabled",
        thread: "nvmf_tgt_poll_group_000",
        hostnqn: hostNqn,
        listen_address: address,
        peer_address: address,
      })),
    );
  },
};

function addListener(context: Context, params: JsonValue | undefined): Started {
  const asked = decode(params, {
    ...listening,
    ana_state: optional(anaState),
    secure_channel: optional(flag),
    sock_impl: optional(text),
  });
  if (isDiscovery(context, asked.nqn)) return startDiscovery(context, asked.listen_address);
  const subsystem = subsystemNamed(context, asked.nqn, asked.tgt_name);
  const address = addressOf(asked.listen_address);
  return changeSubsystem(context, subsystem, () => {
    const known = subsystem.listeners.some((listener) => sameAddress(listener.address, address));
    if (known && context.release.repeatsAccess) return true;
    if (known || !canListen(context.target, address)) throw nvmfInvalid();
    const groups = Array.from(
      { length: subsystem.maxNamespaces },
      () => asked.ana_state ?? "optimized",
    );
    subsystem.listeners = [{ address, ana: groups }, ...subsystem.listeners];
    return true;
  });
}

function listenerJson({ anaReporting }: Subsystem, { address, ana }: Listener): object {
  if (!anaReporting) return { address };
  const states = ana.map((state, index) => ({ ana_group: index + 1, ana_state: state }));
  return { address, ana_states: states };
}

function setAnaState(context: Context, params: JsonValue | undefined): Started {
  const shape = { ...listening, ana_state: required(anaState), anagrpid: optional(unsigned(32)) };
  const asked = decode(params, shape);
  const address = addressOf(asked.listen_address);
  const subsystem = subsystemNamed(context, asked.nqn, asked.tgt_name);
  return changeSubsystem(context, subsystem, () => {
    const found = subsystem.listeners.find((listener) => sameAddress(listener.address, address));
    const { anagrpid: group = 0 } = asked;
    if (!subsystem.anaReporting || found === undefined || group > subsystem.maxNamespaces) {
      throw new RpcError(-32603, "error setting ANA state: -22");
    }
    if (group === 0) found.ana.fill(asked.ana_state);
    else found.ana[group - 1] = asked.ana_state;
    return true;
  });
}

const namespaceFields = object({
  bdev_name: required(text),
  nsid: optional(unsigned(32)),
  nguid: optional(text),
  eui64: optional(text),
  uuid: optional(text),
  anagrpid: optional(unsigned(32)),
  no_auto_visible: optional(flag),
  hide_metadata: optional(flag),
  ptpl_file: optional(text),
});

function addNamespace(context: Context, params: JsonValue | undefined): Started {
  const shape = { ...named, namespace: required(namespaceFields) };
  const { nqn, tgt_name: targetName, namespace } = decode(params, shape, { tolerant: true });
  const { nguid, eui64, uuid, bdev_name: bdevName } = namespace;
  if (nguid !== undefined && !/^[0-9a-f]{32}$/i.test(nguid)) {
    throw new RpcError(-32602, "Invalid nguid");
  }
  if (eui64 !== undefined && !/^[0-9a-f]{16}$/i.test(eui64)) {
    throw new RpcError(-32602, "Invalid eui64");
  }
  if (uuid !== undefined && !isUuid(uuid)) throw nvmfInvalid();
  const { target } = context;
  const subsystem = subsystemNamed(context, nqn, targetName);
  refuseTrap(context, target.bdev(bdevName));
  // The bdev must exist when the request starts: an lvol still being created does not count.
  const existed = target.bdev(bdevName) !== undefined;
  return changeSubsystem(context, subsystem, () => {
    const bdev = existed ? target.bdev(bdevName) : undefined;
    if (bdev === undefined || bdev.exportedBy !== undefined) throw nvmfInvalid();
    // A disk with a loaded store is claimed by that store.
    if (bdev.kind === "disk" && bdev.loaded !== undefined) throw nvmfInvalid();
    const nsid = namespace.nsid || lowestFree(subsystem);
    const outside = nsid < 1 || nsid > subsystem.maxNamespaces;
    if (outside || subsystem.namespaces.has(nsid)) throw nvmfInvalid();
    const anaGroup = namespace.anagrpid ?? nsid;
    if (anaGroup < 1 || anaGroup > subsystem.maxNamespaces) throw nvmfInvalid();
    bdev.exportedBy = nqn;
    subsystem.namespaces.set(nsid, {
      nsid,
      bdev,
      uuid: uuid ?? bdev.uuid,
      nguid: (nguid ?? bdev.uuid.replaceAll("-", "")).toUpperCase(),
      eui64: eui64?.toUpperCase(),
      anaGroup,
    });
    announceNamespaces(subsystem);
    return nsid;
  });
}

/** Fault injection: the target crashes whenever this lvol is to be exported. */
function refuseTrap({ method, id }: Context, bdev: Bdev | undefined): void {
  if (bdev?.kind !== "lvol" || !bdev.store.base.disk.isTrap(bdev.uuid)) return;
  throw new TargetAbort(`${method} (id ${id}) of ${bdev.alias}, which a test marked to abort`);
}

/** The lowest free nsid; 0 if there is none. */
function lowestFree({ namespaces, maxNamespaces }: Subsystem): number {
  for (let nsid = 1; nsid <= maxNamespaces; nsid += 1) if (!namespaces.has(nsid)) return nsid;
  return 0;
}
