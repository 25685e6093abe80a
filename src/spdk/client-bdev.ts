// bdev_* calls for bdevs and NVMe controllers (CONTRACT sections 3 and 4), under SPDK's own names.

import { isIPv4, isIPv6 } from "node:net";
import {
  bdev,
  controller,
  controllerHealth,
  iostat,
  type Bdev,
  type Controller,
  type ControllerHealth,
  type Iostat,
} from "./replies-bdev.ts";
import { flag, list, text } from "./fields.ts";
import { absentAsUndefined, WAIT_MS, type CallerOptions, type Rpc } from "./rpc.ts";

export type AttachController = {
  readonly name: string;
  readonly trtype: string;
  readonly traddr: string;
  /** IPv4 or IPv6 by default, as traddr is: over TCP the target refuses an attach without it. */
  readonly adrfam?: string | undefined;
  readonly trsvcid?: string | undefined;
  readonly subnqn?: string | undefined;
};

/** 0 = unlimited, absent = unchanged. IOPS are rounded up to a multiple of 1,000 by the target. */
export type QosLimit = {
  readonly name: string;
  readonly rwIosPerSec?: bigint | undefined;
  readonly rwMbytesPerSec?: bigint | undefined;
  readonly rMbytesPerSec?: bigint | undefined;
  readonly wMbytesPerSec?: bigint | undefined;
};

/** More names than this do not fit into a request of 30,000 bytes: everything is read then. */
const MAX_IOSTAT_NAMES = 600;

export function bdevCalls(rpc: Rpc) {
  return { ...anyBdevCalls(rpc), ...controllerCalls(rpc) };
}

export type BdevCalls = ReturnType<typeof bdevCalls>;

function anyBdevCalls(rpc: Rpc) {
  return {
    /** Every bdev: 180 ms of blocked I/O at 5,000 lvols. Only for a first look. */
    async bdevGetBdevs(options?: CallerOptions): Promise<readonly Bdev[]> {
      return await rpc.read("bdev_get_bdevs", undefined, list(bdev), { ...options, dump: true });
    },

    /** By name, alias or uuid; undefined when there is none. */
    /** Answers when no bdev is being looked into any more: stores that were being loaded are there. */
    async bdevWaitForExamine(options?: CallerOptions): Promise<void> {
      await rpc.read("bdev_wait_for_examine", undefined, flag, {
        waitMs: WAIT_MS.load,
        ...options,
      });
    },

    async getBdev(name: string, options?: CallerOptions): Promise<Bdev | undefined> {
      const found = rpc.read("bdev_get_bdevs", { name }, list(bdev), options);
      return (await absentAsUndefined(found))?.[0];
    },

    /**
     * Counters of the named bdevs, or of all without names. An unknown name fails the whole call
     * where the release filters; where it cannot, or there are too many, all are read and sifted.
     */
    async bdevGetIostat(names?: readonly string[], options?: CallerOptions): Promise<Iostat> {
      if (names === undefined) {
        return await rpc.read("bdev_get_iostat", undefined, iostat, { ...options, dump: true });
      }
      const { iostatFilter } = await rpc.capabilities();
      if (iostatFilter === "names" && names.length <= MAX_IOSTAT_NAMES) {
        return await rpc.read("bdev_get_iostat", { names }, iostat, options);
      }
      const [name] = names;
      if (iostatFilter === "name" && names.length === 1) {
        return await rpc.read("bdev_get_iostat", { name }, iostat, options);
      }
      const all = await rpc.read("bdev_get_iostat", undefined, iostat, { ...options, dump: true });
      const wanted = new Set(names);
      return { ...all, bdevs: all.bdevs.filter((one) => wanted.has(one.name)) };
    },

    /** Only after the namespace is attached: on a bdev that nobody opened it works just once. */
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

function controllerCalls(rpc: Rpc) {
  return {
    /**
     * Names of the controller's bdevs, after the store on them is loaded. Always with multipath
     * "disable": without it another address under a used name becomes a second path.
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

    /** Not refused because of lvols or exports on it: all of them go. */
    async bdevNvmeDetachController(name: string, options?: CallerOptions): Promise<void> {
      await rpc.change("bdev_nvme_detach_controller", { name }, flag, options);
    },

    async bdevNvmeGetControllers(options?: CallerOptions): Promise<readonly Controller[]> {
      return await rpc.read("bdev_nvme_get_controllers", undefined, list(controller), options);
    },

    async getController(name: string, options?: CallerOptions): Promise<Controller | undefined> {
      const found = rpc.read("bdev_nvme_get_controllers", { name }, list(controller), options);
      return (await absentAsUndefined(found))?.[0];
    },

    /** `name` is a controller's, not a bdev's. About 40 ms. */
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
  if (value < 0n || value > MAX_SAFE) throw new RangeError(`${value} is out of range`);
  return Number(value);
}

const MAX_SAFE = BigInt(Number.MAX_SAFE_INTEGER);
