// bdev_* calls for bdevs and NVMe controllers (docs/spdk-contract.md#bdevs), named after the SPDK
// methods.

import { isIPv4, isIPv6 } from "node:net";
import { IOSTAT_NAMES, SPDK_REQUEST_BYTES } from "../limits.ts";
import {
  bdev,
  controller,
  controllerHealth,
  identifiedNamespace,
  iostat,
  type Bdev,
  type Controller,
  type ControllerHealth,
  type IdentifiedNamespace,
  type Iostat,
} from "./replies-bdev.ts";
import { flag, list, text } from "./fields.ts";
import { absentAsUndefined, WAIT_MS, type CallerOptions, type Rpc } from "./rpc.ts";

export type AttachController = {
  readonly name: string;
  readonly trtype: string;
  readonly traddr: string;
  /** Default: the family of traddr, if it is an IP address. Attaching over TCP fails without it. */
  readonly adrfam?: string | undefined;
  readonly trsvcid?: string | undefined;
  readonly subnqn?: string | undefined;
};

/** 0 = unlimited, absent = unchanged. The target rounds IOPS up to a multiple of 1,000. */
export type QosLimit = {
  readonly name: string;
  readonly rwIosPerSec?: bigint | undefined;
  readonly rwMbytesPerSec?: bigint | undefined;
  readonly rMbytesPerSec?: bigint | undefined;
  readonly wMbytesPerSec?: bigint | undefined;
};

const IDENTIFY_OPCODE = 0x06;

export function bdevCalls(rpc: Rpc) {
  return { ...anyBdevCalls(rpc), ...controllerCalls(rpc) };
}

export type BdevCalls = ReturnType<typeof bdevCalls>;

function anyBdevCalls(rpc: Rpc) {
  return {
    /** Every bdev. Blocks I/O on the target for 180 ms at 5,000 lvols: only for a full scan. */
    async bdevGetBdevs(options?: CallerOptions): Promise<readonly Bdev[]> {
      return await rpc.read("bdev_get_bdevs", undefined, list(bdev), { ...options, dump: true });
    },

    /** Resolves when SPDK examines no bdev any more: lvstores that were loading are loaded then. */
    async bdevWaitForExamine(options?: CallerOptions): Promise<void> {
      await rpc.read("bdev_wait_for_examine", undefined, flag, {
        waitMs: WAIT_MS.load,
        ...options,
      });
    },

    /** By name, alias or uuid; undefined when there is no such bdev. */
    async getBdev(name: string, options?: CallerOptions): Promise<Bdev | undefined> {
      const found = rpc.read("bdev_get_bdevs", { name }, list(bdev), options);
      return (await absentAsUndefined(found))?.[0];
    },

    /**
     * Counters of the named bdevs; without names, of all bdevs. Where the target filters by name,
     * an unknown name fails the whole call. Where release or size of the request do not let it filter by
     * that many names, the counters of all are read and filtered here.
     */
    async bdevGetIostat(names?: readonly string[], options?: CallerOptions): Promise<Iostat> {
      if (names === undefined) {
        return await rpc.read("bdev_get_iostat", undefined, iostat, { ...options, dump: true });
      }
      const { iostatFilter } = await rpc.capabilities();
      if (iostatFilter === "names" && fitOneRequest(names)) {
        return await rpc.read("bdev_get_iostat", { names }, iostat, options);
      }
      const [name] = names;
      if (iostatFilter === "name" && names.length === 1) {
        return await rpc.read("bdev_get_iostat", { name }, iostat, options);
      }
      const all = await rpc.read("bdev_get_iostat", undefined, iostat, { ...options, dump: true });
      const wanted = new Set(names);
      return { ...all, bdevs: all.bdevs.filter((counters) => wanted.has(counters.name)) };
    },

    /**
     * Call it only after the namespace is attached: on a bdev without an opener it works only once.
     */
    async bdevSetQosLimit(limit: QosLimit, options?: CallerOptions): Promise<void> {
      const params = {
        name: limit.name,
        rw_ios_per_sec: uint(limit.rwIosPerSec),
        rw_mbytes_per_sec: uint(limit.rwMbytesPerSec),
        r_mbytes_per_sec: uint(limit.rMbytesPerSec),
        w_mbytes_per_sec: uint(limit.wMbytesPerSec),
      };
      await rpc.change("bdev_set_qos_limit", params, flag, options);
    },
  };
}

/** Room in a request for all but its params. */
const ENVELOPE_BYTES = 100;

function fitOneRequest(names: readonly string[]): boolean {
  if (names.length > IOSTAT_NAMES) return false;
  const bytes = Buffer.byteLength(JSON.stringify(names));
  return bytes + ENVELOPE_BYTES < SPDK_REQUEST_BYTES;
}

function controllerCalls(rpc: Rpc) {
  return {
    /**
     * Returns the names of the controller's bdevs, after the lvstore on them is loaded. Always
     * sends multipath "disable": otherwise another address under a name in use becomes a second
     * path.
     */
    async bdevNvmeAttachController(
      { name, trtype, traddr, adrfam, trsvcid, subnqn }: AttachController,
      options?: CallerOptions,
    ): Promise<readonly string[]> {
      return await rpc.change(
        "bdev_nvme_attach_controller",
        {
          name,
          trtype,
          traddr,
          adrfam: adrfam ?? addressFamily(traddr),
          trsvcid,
          subnqn,
          multipath: "disable",
        },
        list(text),
        { waitMs: WAIT_MS.load, ...options },
      );
    },

    /** Sends no NVMe command but Identify Namespace. Undefined: the drive has refused it. */
    async identifyNamespace(
      { name, nsid }: { readonly name: string; readonly nsid: number },
      options?: CallerOptions,
    ): Promise<IdentifiedNamespace | undefined> {
      const command = Buffer.alloc(64);
      command.writeUInt8(IDENTIFY_OPCODE, 0);
      command.writeUInt32LE(nsid, 4);
      const params = {
        name,
        cmd_type: "admin",
        data_direction: "c2h",
        cmdbuf: paddedBase64Url(command),
        data_len: 4_096,
      };
      return await rpc.read("bdev_nvme_send_cmd", params, identifiedNamespace, options);
    },

    /**
     * SPDK does not refuse it because of lvols or exports on the controller: it removes them too.
     */
    async bdevNvmeDetachController(name: string, options?: CallerOptions): Promise<void> {
      await rpc.change("bdev_nvme_detach_controller", { name }, flag, options);
    },

    async bdevNvmeGetControllers(options?: CallerOptions): Promise<readonly Controller[]> {
      return await rpc.read("bdev_nvme_get_controllers", undefined, list(controller), options);
    },

    /** Undefined when there is no controller of that name. */
    async getController(name: string, options?: CallerOptions): Promise<Controller | undefined> {
      const found = rpc.read("bdev_nvme_get_controllers", { name }, list(controller), options);
      return (await absentAsUndefined(found))?.[0];
    },

    /** `name` is that of a controller, not of a bdev. Takes about 40 ms. */
    async bdevNvmeGetControllerHealthInfo(
      name: string,
      options?: CallerOptions,
    ): Promise<ControllerHealth> {
      const method = "bdev_nvme_get_controller_health_info";
      return await rpc.read(method, { name }, controllerHealth, options);
    },
  };
}

/** Undefined for a PCI address. */
function addressFamily(traddr: string): "IPv4" | "IPv6" | undefined {
  if (isIPv4(traddr)) return "IPv4";
  return isIPv6(traddr) ? "IPv6" : undefined;
}

function uint(value: bigint | undefined): number | undefined {
  if (value === undefined) return undefined;
  if (value < 0n || value > MAX_SAFE)
    throw new RangeError(`QoS limit ${value} is not between 0 and ${MAX_SAFE}`);
  return Number(value);
}

const MAX_SAFE = BigInt(Number.MAX_SAFE_INTEGER);

/** The target takes this form only, with its padding. */
function paddedBase64Url(bytes: Buffer): string {
  return bytes.toString("base64").replaceAll("+", "-").replaceAll("/", "_");
}
