// RPC methods on bdevs: list, I/O counters, QoS limits (docs/spdk-contract.md#bdevs).
import {
  decode,
  DecodeFailed,
  flag,
  list,
  oneOf,
  optional,
  required,
  text,
  unsigned,
} from "./decode.ts";
import { done, type Context, type Methods, type Started } from "./method.ts";
import { TargetAbort } from "./operation.ts";
import { TICK_RATE, ticksNow } from "./process-identity.ts";
import { errno, RpcError } from "./rpc-error.ts";
import { clonesOf, type Bdev, type DiskBdev, type LvolBdev, type RateLimits } from "./target.ts";

const IOPS_STEP = 1_000;

export const bdevMethods: Methods = {
  bdev_get_bdevs: ({ target }, params) => {
    const shape = { name: optional(text), timeout: optional(unsigned(32)) };
    const { name, timeout } = decode(params, shape);
    if (name === undefined) return done([...target.bdevs.values()].map(bdevJson));
    const found = target.bdev(name);
    if (found !== undefined) return done([bdevJson(found)]);
    if (timeout === undefined || timeout === 0) throw errno("ENODEV");
    return {
      kind: "later",
      polls: Math.ceil(timeout / 4),
      complete: () => {
        const late = target.bdev(name);
        if (late === undefined) throw errno("ETIMEDOUT");
        return [bdevJson(late)];
      },
    };
  },
  bdev_wait_for_examine: ({ target: { examining } }, params) => {
    if (params !== undefined) {
      throw new RpcError(-32602, "bdev_wait_for_examine requires no parameters");
    }
    if (examining.size === 0) return done(true);
    return { kind: "later", polls: 0, isDue: () => examining.size === 0, complete: () => true };
  },
  bdev_examine: (_context, params) => {
    try {
      decode(params, { name: required(text) });
    } catch (error) {
      if (!(error instanceof DecodeFailed)) throw error;
      throw new RpcError(-32602, "spdk_json_decode_object failed");
    }
    // Automatic examination is on, so every bdev is already examined.
    throw errno("EINVAL");
  },
  bdev_get_iostat: iostat,
  bdev_set_qos_limit: setQosLimit,
};

function iostat(
  { target, strict, method, id }: Context,
  params: Parameters<Methods[string]>[1],
): Started {
  const {
    names,
    per_channel: perChannel,
    reset_mode: resetMode = "none",
  } = decode(params, {
    names: optional(list(text)),
    per_channel: optional(flag),
    reset_mode: optional(oneOf("all", "maxmin", "error", "none")),
  });
  if (perChannel === true && names?.length !== 1) throw errno("EINVAL");
  if (strict && resetMode !== "none") {
    throw new TargetAbort(
      `${method} (id ${id}) takes away what all others count: reset_mode (strict)`,
    );
  }
  const bdevs =
    names?.map((name) => {
      const found = target.bdev(name);
      if (found === undefined) throw errno("ENODEV");
      return found;
    }) ?? lvolsFirst(target);
  const complete = () => {
    const head = { tick_rate: TICK_RATE, ticks: ticksNow() };
    const entries = bdevs.map(countersJson);
    for (const { io } of bdevs) io.reset(resetMode);
    return perChannel === true
      ? { ...head, name: bdevs[0]?.name, channels: [] }
      : { ...head, bdevs: entries };
  };
  return { kind: "later", polls: 0, complete };
}

/** In the answer of bdev_get_iostat, disks come after the lvols on them (transcript 15). */
function lvolsFirst({ bdevs }: Context["target"]): readonly Bdev[] {
  const isDisk = ({ kind }: Bdev) => Number(kind === "disk");
  return [...bdevs.values()].toSorted((a, b) => isDisk(a) - isDisk(b));
}

function countersJson(bdev: Bdev): object {
  return {
    name: bdev.name,
    ...bdev.io.json(),
    ...(bdev.kind === "disk" ? { driver_specific: {} } : {}),
  };
}

function setQosLimit(
  { target, release }: Context,
  params: Parameters<Methods[string]>[1],
): Started {
  const asked = decode(params, {
    name: required(text),
    rw_ios_per_sec: optional(unsigned(64)),
    rw_mbytes_per_sec: optional(unsigned(64)),
    r_mbytes_per_sec: optional(unsigned(64)),
    w_mbytes_per_sec: optional(unsigned(64)),
  });
  const bdev = target.bdev(asked.name);
  if (bdev === undefined) throw errno("ENODEV");
  const { rw_ios_per_sec: rwIos, rw_mbytes_per_sec: rwMbytes } = asked;
  const { r_mbytes_per_sec: readMbytes, w_mbytes_per_sec: writeMbytes } = asked;
  if ([rwIos, rwMbytes, readMbytes, writeMbytes].every((value) => value === undefined)) {
    throw new RpcError(-22, "No rate limits specified");
  }
  // The later of two changes at once is refused.
  const overlaps = bdev.qosChanging;
  bdev.qosChanging = true;
  return {
    kind: "later",
    polls: 0,
    complete: () => {
      if (!overlaps) bdev.qosChanging = false;
      if (overlaps || (bdev.exportedBy === undefined && bdev.qosStuck)) {
        const why = errno("EAGAIN").message;
        throw new RpcError(-32602, `Failed to configure rate limit: ${why}`);
      }
      bdev.qosStuck = release.sticksToQos && bdev.exportedBy === undefined;
      const { limits } = bdev;
      if (rwIos !== undefined) limits.rwIos = Math.ceil(rwIos / IOPS_STEP) * IOPS_STEP;
      limits.rwMbytes = rwMbytes ?? limits.rwMbytes;
      limits.readMbytes = readMbytes ?? limits.readMbytes;
      limits.writeMbytes = writeMbytes ?? limits.writeMbytes;
      return true;
    },
  };
}

function bdevJson(bdev: Bdev): object {
  const { blockSize } = bdev.kind === "disk" ? bdev.disk.facts : bdev.store.base.disk.facts;
  const claim = claimOf(bdev);
  return {
    name: bdev.name,
    aliases: [bdev.kind === "disk" ? bdev.uuid : bdev.alias],
    product_name: bdev.kind === "disk" ? "NVMe disk" : "Logical Volume",
    block_size: blockSize,
    num_blocks: bdev.kind === "disk" ? bdev.disk.facts.numBlocks : bdev.numBlocks,
    uuid: bdev.uuid,
    assigned_rate_limits: limitsJson(bdev.limits),
    claimed: claim !== undefined,
    ...(claim === undefined ? {} : { claim_type: claim }),
    zoned: false,
    supported_io_types: ioTypes(bdev),
    driver_specific: bdev.kind === "disk" ? diskJson(bdev) : { lvol: lvolJson(bdev) },
  };
}

function claimOf(bdev: Bdev): string | undefined {
  if (bdev.exportedBy !== undefined) return "exclusive_write";
  return bdev.kind === "disk" && bdev.loaded !== undefined ? "read_many_write_one" : undefined;
}

function limitsJson({ rwIos, rwMbytes, readMbytes, writeMbytes }: RateLimits): object {
  return {
    rw_ios_per_sec: rwIos,
    rw_mbytes_per_sec: rwMbytes,
    r_mbytes_per_sec: readMbytes,
    w_mbytes_per_sec: writeMbytes,
  };
}

function ioTypes(bdev: Bdev): Readonly<Record<string, boolean>> {
  const disk = bdev.kind === "disk";
  const writable = disk || !bdev.shownReadOnly;
  return {
    read: true,
    write: writable,
    unmap: writable,
    flush: disk,
    reset: true,
    nvme_admin: disk,
    nvme_io: disk,
    nvme_io_md: false,
    write_zeroes: writable,
    zcopy: false,
    get_zone_info: false,
    zone_management: false,
    zone_append: false,
    compare: disk,
    compare_and_write: disk,
    abort: disk,
    seek_hole: !disk,
    seek_data: !disk,
    copy: disk,
    nvme_iov_md: false,
    nvme_nssr: false,
    write_uncorrectable: false,
  };
}

function lvolJson({ blob, store }: LvolBdev): object {
  const parent = blob.parent === undefined ? undefined : store.store.blobs.get(blob.parent);
  const clones = clonesOf(store.store, blob.uuid).filter(({ uuid }) => store.lvols.has(uuid));
  return {
    lvol_store_uuid: store.store.uuid,
    base_bdev: store.base.name,
    thin_provision: blob.thin,
    num_allocated_clusters: blob.allocated.size,
    snapshot: blob.snapshot,
    clone: parent !== undefined,
    ...(parent === undefined ? {} : { base_snapshot: parent.name }),
    ...(clones.length === 0 ? {} : { clones: clones.map(({ name }) => name) }),
    esnap_clone: false,
  };
}

function diskJson({ controller, disk }: DiskBdev): object {
  const { serial, model } = disk.facts;
  const path = controller.paths[0];
  const pcie = path?.trtype.toUpperCase() === "PCIE";
  return {
    nvme: [
      {
        ...(pcie ? { pci_address: path?.traddr } : {}),
        trid: path === undefined ? {} : tridJson(path),
        ctrlr_data: {
          cntlid: path?.cntlid ?? 0,
          vendor_id: "0x1b36",
          model_number: model,
          serial_number: serial,
          firmware_revision: "1.0",
          subnqn: path?.subnqn ?? `nqn.2019-08.org.qemu:${serial}`,
          oacs: { security: 0, format: 1, firmware: 0, ns_manage: 1 },
          multi_ctrlr: false,
          ana_reporting: false,
        },
        vs: { nvme_version: "1.4" },
        ns_data: { id: disk.facts.nsid, can_share: false },
      },
    ],
    mp_policy: "active_passive",
  };
}

export function tridJson(path: {
  readonly trtype: string;
  readonly traddr: string;
  readonly adrfam: string | undefined;
  readonly trsvcid: string | undefined;
  readonly subnqn: string | undefined;
}): object {
  const { trtype, traddr, adrfam, trsvcid, subnqn } = path;
  if (trtype.toUpperCase() === "PCIE") return { trtype: "PCIe", traddr };
  return { trtype: trtype.toUpperCase(), adrfam: adrfam ?? "IPv4", traddr, trsvcid, subnqn };
}
