// Why the controller of a disk is not claimed or attached, with the cure of each known reason.
import type { Setback } from "../model/controller.ts";
import { instant, type Cause } from "./explanation.ts";
import { IOMMU_CURE } from "./setup.ts";

/** By the word that such a reason begins with, or has after the address of a member. */
const CURES: readonly (readonly [word: string, cure: string])[] = [
  ["VFIO_PCI_NOT_LOADED", "modprobe vfio-pci, and have it loaded at each boot"],
  ["NO_HUGEPAGES", "reserve hugepages (vm.nr_hugepages), and start the target again"],
  ["NO_IOMMU", IOMMU_CURE],
  ["VFIO_IN_USE", "end that process, or leave the drive to it"],
  ["DISK_TOO_SMALL", "use another drive"],
  ["CONFLICT", "take one of the two drives out"],
  ["none of its disks is admitted", "call AdmitDisk for a disk on that controller, too"],
  ["not looked at yet", "wait: disks are looked at every 30 seconds"],
  ["--no-huge", "restart the target without --no-huge"],
  ["memlock", "raise the memlock limit of the target"],
  ["interrupt remapping", "enable interrupt remapping, or allow_unsafe_interrupts"],
];

/** waits: what the controller waits for or fails at, as recorded; undefined: nothing. */
export function claimCause(waits: string | undefined): Cause | undefined {
  if (waits === undefined) return undefined;
  return {
    cause: waits,
    cure: `${cureOf(waits)}; the agent then goes on by itself`,
    waits: "waits for its controller",
  };
}

/** Its claim failed for good, and its controller was given back. */
export function setBackCause({
  reason,
  nextTryTime,
}: Pick<Setback, "reason" | "nextTryTime">): Cause {
  const next = `is tried again at ${instant(nextTryTime)}`;
  return {
    cause: `${reason}; its controller was given back to the kernel driver and ${next}`,
    cure: `${cureOf(reason)}; AdmitDisk, or a restart of the target, has it tried at once`,
    waits: next,
  };
}

function cureOf(reason: string): string {
  const known = CURES.find(([word]) => reason.includes(word));
  return known?.[1] ?? "see ListControllers, dmesg and the target's log";
}
