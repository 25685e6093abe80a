// The PCIe link of a function, and what it could be: the lesser of what the function and the port above
// it support, as a drive of a newer generation in an older slot is not at fault. The kernel shows it
// whatever driver the function has. It never writes.
import type { PcieLink } from "../model/disk-health.ts";
import type { Kernel } from "./kernel.ts";

const PCI = "/sys/bus/pci/devices";

/** Undefined: the function is not there, or its link is not known (a virtual drive). */
export async function readPcieLink(
  kernel: Kernel,
  pciAddress: string,
): Promise<PcieLink | undefined> {
  const at = await kernel.realPath(`${PCI}/${pciAddress}`);
  if (at === undefined) return undefined;
  const port = at.slice(0, at.lastIndexOf("/"));
  const [gigatransfers, lanes, drive, slot] = await Promise.all([
    readSpeed(kernel, `${at}/current_link_speed`),
    readLanes(kernel, `${at}/current_link_width`),
    readMaximum(kernel, at),
    readMaximum(kernel, port),
  ]);
  if (gigatransfers === undefined || lanes === undefined) return undefined;
  if (drive.gigatransfers === undefined || drive.lanes === undefined) return undefined;
  return {
    gigatransfers,
    lanes,
    maxGigatransfers: Math.min(drive.gigatransfers, slot.gigatransfers ?? Infinity),
    maxLanes: Math.min(drive.lanes, slot.lanes ?? Infinity),
  };
}

async function readMaximum(kernel: Kernel, at: string) {
  const [gigatransfers, lanes] = await Promise.all([
    readSpeed(kernel, `${at}/max_link_speed`),
    readLanes(kernel, `${at}/max_link_width`),
  ]);
  return { gigatransfers, lanes };
}

/** `16.0 GT/s PCIe`; `Unknown` of a virtual function. */
async function readSpeed(kernel: Kernel, path: string): Promise<number | undefined> {
  const digits = /^(\d+(?:\.\d+)?) GT\/s/.exec((await kernel.read(path)) ?? "")?.[1];
  return digits === undefined ? undefined : Number(digits);
}

/** 0 and 255 stand for a width that is not known. */
async function readLanes(kernel: Kernel, path: string): Promise<number | undefined> {
  const lanes = Number((await kernel.read(path)) ?? "0");
  return lanes > 0 && lanes <= 32 ? lanes : undefined;
}
