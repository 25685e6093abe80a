// Why the target refuses to attach a function that is bound to vfio-pci: SPDK answers -19 to every cause
// (docs/spdk-contract.md#attach), so what can be read of the node is read.
import type { SpdkError } from "../../spdk/errors.ts";
import { readTargetLimits } from "../../sysfs/host-setup.ts";
import type { Kernel } from "../../sysfs/kernel.ts";

/** Cause and cure in one sentence. targetPid: undefined where the target does not tell. */
export async function attachFailureCause(
  kernel: Kernel,
  { method, code, spdkMessage }: SpdkError,
  targetPid: number | undefined,
): Promise<string> {
  const answer = `${method} answered ${code} (${spdkMessage})`;
  const causes = await Promise.all([
    targetPid === undefined ? undefined : ofProcess(kernel, targetPid),
    ofHugepages(kernel),
    ofInterrupts(kernel),
  ]);
  const found = causes.filter((cause) => cause !== undefined);
  return found.length === 0 ? `${answer}; see the target's log` : `${answer}: ${found.join("; ")}`;
}

async function ofProcess(kernel: Kernel, pid: number): Promise<string | undefined> {
  const [command, limits] = await Promise.all([
    kernel.read(`/proc/${pid}/cmdline`).catch(() => undefined),
    readTargetLimits(kernel, pid),
  ]);
  if (command?.split("\0").includes("--no-huge") === true) {
    return "the target runs with --no-huge, and vfio needs hugepages: restart it without that";
  }
  if (limits?.lockedBytes === undefined || limits.locksFreely) return undefined;
  return `it may lock only ${limits.lockedBytes} bytes of memory: raise its memlock limit (ulimit -l unlimited)`;
}

async function ofHugepages(kernel: Kernel): Promise<string | undefined> {
  const meminfo = await kernel.read("/proc/meminfo").catch(() => undefined);
  const free = /^HugePages_Free:\s+(\d+)/m.exec(meminfo ?? "")?.[1];
  return free === "0" ? "no hugepage is free: reserve more (vm.nr_hugepages)" : undefined;
}

const UNSAFE = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";

/** A machine without interrupt remapping says so in the kernel's log only. */
async function ofInterrupts(kernel: Kernel): Promise<string | undefined> {
  const allowed = await kernel.read(UNSAFE).catch(() => undefined);
  if (allowed !== "N") return undefined;
  return (
    'if the kernel\'s log says "No interrupt remapping", enable it in the firmware, or set ' +
    "allow_unsafe_interrupts=1 of module vfio_iommu_type1"
  );
}
