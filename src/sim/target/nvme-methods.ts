// RPC methods on NVMe controllers: attach, detach, health (docs/spdk-contract.md#nvme-controllers).
import {
  decode,
  DecodeFailed,
  flag,
  integer,
  oneOf,
  optional,
  required,
  text,
  unsigned,
} from "./decode.ts";
import { tridJson } from "./bdev-methods.ts";
import type { JsonValue } from "./json.ts";
import type { Disk } from "./media.ts";
import { after, done, HalfDone, type Context, type Methods, type Started } from "./method.ts";
import { errno, RpcError } from "./rpc-error.ts";
import { health } from "./health-page.ts";
import { sendCommand } from "./nvme-command.ts";
import type { Controller, DiskBdev, Path, Target } from "./target.ts";

/** Polls that an attach takes, including the examination of the bdev. */
const ATTACH_POLLS = 4;
const DETACH_POLLS = 1;

const ATTACH = {
  name: required(text),
  trtype: required(text),
  traddr: required(text),
  adrfam: optional(text),
  trsvcid: optional(text),
  priority: optional(text),
  subnqn: optional(text),
  hostnqn: optional(text),
  hostaddr: optional(text),
  hostsvcid: optional(text),
  prchk_reftag: optional(flag),
  prchk_guard: optional(flag),
  hdgst: optional(flag),
  ddgst: optional(flag),
  fabrics_connect_timeout_us: optional(unsigned(64)),
  multipath: optional(oneOf("failover", "multipath", "disable")),
  num_io_queues: optional(unsigned(32)),
  ctrlr_loss_timeout_sec: optional(integer),
  reconnect_delay_sec: optional(unsigned(32)),
  fast_io_fail_timeout_sec: optional(unsigned(32)),
  max_bdevs: optional(unsigned(32)),
  psk: optional(text),
  dhchap_key: optional(text),
  dhchap_ctrlr_key: optional(text),
  allow_unrecognized_csi: optional(flag),
};

export const nvmeMethods: Methods = {
  bdev_nvme_attach_controller: attach,
  bdev_nvme_detach_controller: detach,
  bdev_nvme_get_controllers: ({ target }, params) => {
    const { name } = decode(params, { name: optional(text) });
    if (name === undefined) return done([...target.controllers.values()].map(controllerJson));
    const controller = target.controllers.get(name);
    if (controller === undefined) {
      throw new RpcError(-22, `Controller ${name} does not exist`);
    }
    return done([controllerJson(controller)]);
  },
  bdev_nvme_get_controller_health_info: health,
  bdev_nvme_reset_controller: ({ target }, params) => {
    let name: string;
    try {
      ({ name } = decode(params, { name: required(text), cntlid: optional(unsigned(16)) }));
    } catch (error) {
      if (!(error instanceof DecodeFailed)) throw error;
      throw new RpcError(-32602, "Invalid argument");
    }
    if (!target.controllers.has(name)) throw errno("ENODEV");
    return { kind: "later", polls: 1, complete: () => true };
  },
  bdev_nvme_send_cmd: sendCommand,
  bdev_nvme_set_options: ({ target }) => {
    if (target.controllers.size > 0) {
      throw new RpcError(-1, "RPC not permitted with nvme controllers already attached");
    }
    return done(true);
  },
};

type Attach = ReturnType<typeof decodeAttach>;

function decodeAttach(params: JsonValue | undefined) {
  return decode(params, ATTACH);
}

function attach(context: Context, params: JsonValue | undefined): Started {
  const { target } = context;
  const asked = decodeAttach(params);
  refuseKnownName(target, asked);
  const disks = reachable(context, asked);
  if (disks.length > 0) refuseKnownAddress(target, asked);
  return {
    kind: "later",
    polls: disks.length === 0 ? 0 : ATTACH_POLLS,
    isDue: after(Math.max(0, ...disks.map(({ late }) => late.attachMs))),
    complete: () => {
      if (disks.length === 0) {
        throw asked.trtype.toUpperCase() === "TCP" ? errno("EIO") : errno("ENODEV");
      }
      return connect(context, asked, disks);
    },
  };
}

function refuseKnownName(
  target: Target,
  { name, multipath, traddr, trsvcid, subnqn }: Attach,
): void {
  const known = target.controllers.get(name);
  if (known === undefined) return;
  const head = `A controller named ${name} already exists`;
  if (multipath === "disable") throw new RpcError(-114, `${head} and multipath is disabled`);
  const samePath = known.paths.some(
    (path) => path.traddr === traddr && path.trsvcid === trsvcid && path.subnqn === subnqn,
  );
  if (samePath) throw new RpcError(-114, `${head} with the specified network path`);
}

/** A drive with two ports can be attached through each of them. */
function refuseKnownAddress(target: Target, asked: Attach): void {
  for (const { name, paths } of target.controllers.values()) {
    const isKnown = paths.some(
      ({ traddr, trsvcid, subnqn }) =>
        traddr === asked.traddr && trsvcid === asked.trsvcid && subnqn === asked.subnqn,
    );
    if (isKnown && name !== asked.name) throw errno("EEXIST");
  }
}

/** The namespaces at an address; none where an attach on a real target would find no device. */
function reachable({ target, driveAt }: Context, asked: Attach): readonly Disk[] {
  const { trtype, traddr, trsvcid, subnqn, adrfam } = asked;
  const type = trtype.toUpperCase();
  const ofType = target.disks
    .filter(({ facts }) => facts.trtype.toUpperCase() === type)
    .toSorted((a, b) => a.facts.nsid - b.facts.nsid);
  if (type === "PCIE") {
    const drive = driveAt(traddr);
    if (drive === "by address") return ofType.filter(({ facts }) => facts.traddr === traddr);
    return ofType.filter(({ facts }) => facts.id === drive?.id);
  }
  // Measured: an attach over TCP without its address family fails with EIO.
  if (adrfam === undefined) return [];
  const at = { traddr, trsvcid, subnqn };
  return ofType.filter(
    ({ facts }) =>
      facts.traddr === at.traddr && facts.trsvcid === at.trsvcid && facts.subnqn === at.subnqn,
  );
}

/** The controller is listed from here on; the answer waits until its store is loaded. */
function connect(
  { target, groupUse, isMarked }: Context,
  asked: Attach,
  disks: readonly Disk[],
): readonly string[] | HalfDone {
  const { name, trtype, traddr, trsvcid, subnqn, adrfam } = asked;
  const path: Path = { cntlid: target.nextCntlid(), trtype, traddr, trsvcid, subnqn, adrfam };
  const known = target.controllers.get(name);
  if (known !== undefined) {
    // Two identical attaches in flight: one controller with two paths.
    known.paths.push(path);
    return known.bdevs.map((bdev) => bdev.name);
  }
  // What a kernel has overwritten meanwhile is no store; the other blocks are as they were.
  for (const disk of disks) if (disk.store !== undefined && !isMarked(disk.facts)) disk.destroy();
  const controller: Controller = { name, disks, paths: [path], bdevs: [] };
  target.controllers.set(name, controller);
  const bdevs = disks.map((disk) => target.registerDisk(controller, disk));
  if (trtype.toUpperCase() === "PCIE") groupUse(traddr, true);
  const examineAll = () => bdevs.flatMap((bdev) => examine(target, bdev));
  const loadMs = Math.max(...disks.map(({ late }) => late.loadMs));
  if (loadMs === 0) return examineAll();
  for (const bdev of bdevs) target.examining.add(bdev);
  return new HalfDone(examineAll, after(loadMs));
}

function examine(target: Target, bdev: DiskBdev): readonly string[] {
  target.examining.delete(bdev);
  // It was detached meanwhile.
  if (target.bdev(bdev.name) !== bdev) throw errno("ENODEV");
  const { store } = bdev.disk;
  const clash =
    store !== undefined &&
    (target.stores.has(store.uuid) || target.storeByName(store.name) !== undefined);
  if (store !== undefined && !clash) target.loadStore(bdev, store);
  // The events of the lvols precede that of their disk (docs/spdk-contract.md#events).
  target.notify("bdev_register", bdev);
  return [bdev.name];
}

function detach(context: Context, params: JsonValue | undefined): Started {
  const { target, operations, id, method, groupUse } = context;
  const asked = decode(params, {
    name: required(text),
    trtype: optional(text),
    traddr: optional(text),
    adrfam: optional(text),
    trsvcid: optional(text),
    subnqn: optional(text),
    hostaddr: optional(text),
    hostsvcid: optional(text),
  });
  const controller = target.controllers.get(asked.name);
  if (controller === undefined) throw errno("ENODEV");
  const matches = controller.paths.some(
    (path) =>
      (asked.traddr === undefined || path.traddr === asked.traddr) &&
      (asked.trsvcid === undefined || path.trsvcid === asked.trsvcid) &&
      (asked.subnqn === undefined || path.subnqn === asked.subnqn),
  );
  if (!matches) throw errno("ENXIO");
  const started = controller.bdevs.map(({ name, loaded: store }) => {
    const operation = { method, id, store, disk: name, lvol: undefined, family: undefined };
    operations.start(operation);
    return operation;
  });
  return {
    kind: "later",
    polls: DETACH_POLLS,
    operations: started,
    complete: () => {
      disconnect({ target, groupUse }, controller);
      return true;
    },
  };
}

function disconnect(
  { target, groupUse }: Pick<Context, "target" | "groupUse">,
  controller: Controller,
): void {
  for (const bdev of controller.bdevs) {
    if (bdev.loaded !== undefined) target.unloadStore(bdev.loaded);
    target.unregister(bdev);
  }
  target.controllers.delete(controller.name);
  for (const { trtype, traddr } of controller.paths) {
    if (trtype.toUpperCase() === "PCIE") groupUse(traddr, false);
  }
}

/** Lets go what was pulled out or taken from vfio-pci, with its stores. */
export function disconnectGone(
  context: Pick<Context, "target" | "groupUse">,
  hasDriver: (address: string) => boolean,
): void {
  for (const controller of context.target.controllers.values()) {
    const isGone = controller.paths.some(
      ({ trtype, traddr }) => trtype.toUpperCase() === "PCIE" && !hasDriver(traddr),
    );
    if (isGone) disconnect(context, controller);
  }
}

function controllerJson({ name, paths, disks }: Controller): object {
  return {
    name,
    ctrlrs: paths.map((path) => ({
      state: disks[0]?.drive.controller ?? "enabled",
      trid: tridJson(path),
      cntlid: path.cntlid,
      host: { nqn: "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000000" },
      numa_id: 0,
    })),
  };
}
