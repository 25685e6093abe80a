// Compares the simulated kernel with recordings of a real one: builds the same machine, makes the
// same writes, and compares every tree entry that the agent may read.
import { lstatSync, readFileSync, readdirSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { buildKernelTree, type KernelSpec } from "../../../src/sim/kernel/build-tree.ts";
import { openSimulatedKernel } from "../../../src/sim/kernel/simulated-kernel.ts";
import { MIB } from "../../support/kernel-scenario.ts";
import { materialise, type RecordedState } from "../../support/materialise.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const MODEL = "QEMU NVMe Ctrl";
const rigDrive = (slot: string, serial: string, iommuGroup: string, sizeBytes: bigint) => ({
  address: `0000:00:${slot}`,
  serial,
  model: MODEL,
  iommuGroup,
  namespaces: [{ sizeBytes }],
});

/** The machine on which the states were recorded. */
const RIG: KernelSpec = {
  hugepages: 16,
  drives: [
    rigDrive("04.0", "RIGBLANK0001", "2", 1024n * MIB),
    {
      ...rigDrive("05.0", "RIGTWONS0001", "3", 0n),
      namespaces: [{ sizeBytes: 128n * MIB }, { sizeBytes: 256n * MIB, blockSizeBytes: 4096 }],
    },
    {
      ...rigDrive("06.0", "RIGDATA00001", "4", 0n),
      namespaces: [
        {
          sizeBytes: 256n * MIB,
          partitions: [
            {
              startBytes: 2048n * 512n,
              sizeBytes: 262_144n * 512n,
              use: { kind: "mount", at: "/mnt/data" },
            },
            { startBytes: 264_192n * 512n, sizeBytes: 260_096n * 512n, use: { kind: "swap" } },
          ],
        },
      ],
    },
    {
      ...rigDrive("07.0", "RIGHELD00001", "5", 0n),
      namespaces: [{ sizeBytes: 64n * MIB, use: { kind: "holder", name: "righeld" } }],
    },
    rigDrive("08.0", "RIGPAIRA0001", "6", 64n * MIB),
    rigDrive("08.1", "RIGPAIRB0001", "6", 64n * MIB),
  ],
};

const DRIVE = /0000:00:0[4-8]\.\d/;

/**
 * Every path in the scope of the sysfs adapter, with its content. Kernel device numbers are
 * replaced by serials, because they differ between boots.
 */
function visible(root: string): Record<string, string> {
  const names = stableNames(root);
  const stable = (text: string) =>
    text.replaceAll(/nvme(-subsys)?\d+(n\d+(p\d+)?)?/g, (name) => names.get(name) ?? name);
  const found: Record<string, string> = {};
  const walk = (path: string) => {
    for (const name of readdirSync(join(root, path))) {
      const at = `${path}/${name}`;
      if (!isCompared(at)) continue;
      const stat = lstatSync(join(root, at));
      if (stat.isDirectory()) {
        found[stable(at)] = "folder";
        walk(at);
      } else if (at.startsWith("/dev/")) found[stable(at)] = "node";
      else if (stat.isSymbolicLink()) {
        found[stable(at)] = stable(`-> ${readlinkSync(join(root, at))}`);
      } else found[stable(at)] = stable(readFileSync(join(root, at), "latin1"));
    }
  };
  walk("/sys");
  walk("/dev");
  return found;
}

/**
 * nvme3 -> RIGDATA00001, nvme3n1p2 -> RIGDATA00001n1p2, by the serial of controller and subsystem.
 */
function stableNames(root: string): ReadonlyMap<string, string> {
  const names = new Map<string, string>();
  const serialIn = (path: string) => readFileSync(join(path, "serial"), "latin1").trim();
  for (const controller of readdirSync(join(root, "sys/class/nvme"))) {
    const at = join(root, "sys/class/nvme", controller);
    const serial = serialIn(at);
    names.set(controller, serial);
    for (const child of readdirSync(at)) {
      const match = /^nvme\d+n(\d+)$/.exec(child);
      if (match === null) continue;
      names.set(child, `${serial}n${match[1]}`);
      for (const part of [1, 2]) names.set(`${child}p${part}`, `${serial}n${match[1]}p${part}`);
    }
  }
  for (const subsystem of readdirSync(join(root, "sys/class/nvme-subsystem"))) {
    const at = join(root, "sys/class/nvme-subsystem", subsystem);
    names.set(subsystem, `${serialIn(at)}-subsystem`);
  }
  return names;
}

/** Recorded attributes that the simulated kernel omits because the agent does not read them. */
const NOT_SIMULATED = [
  /\/(power|firmware_node|uevent|stat|alignment_offset|capability|diskseq|ext_range|range|wwid)$/,
  /\/(ari_enabled|broken_parity_status|consistent_dma_mask_bits|current_link_\w+)$/,
  /\/(d3cold_allowed|dma_mask_bits|enable|iommu|irq|local_cpu\w+|max_link_\w+|modalias|msi_bus)$/,
  /\/(power_state|remove|rescan|reset|reset_method|resource|revision|subsystem_\w+)$/,
  /\/(dctype|kato|queue_count|sqsize|rescan_controller|reset_controller|firmware_rev)$/,
  /\/(ng\d+n\d+|nvme-generic|mapper|reserved_regions)$/,
  /^\/dev\/(dm-\d+|ng\d+n\d+|mapper)/,
  /\/queue\/(?!(logical|physical)_block_size|hw_sector_size)/,
  /\/dm\/(?!name)/,
  // The simulated kernel assigns device numbers in a different order.
  /\/dev$/,
];

function isCompared(path: string): boolean {
  if (path === "/dev") return true;
  const inScope =
    /^\/(dev|sys|sys\/(block|bus|bus\/pci|devices|class|kernel))$/.test(path) ||
    /^\/dev\/(vfio|nvme)/.test(path) ||
    path.startsWith("/sys/block/") ||
    /^\/sys\/bus\/pci\/(devices|drivers\/(nvme|vfio-pci))$/.test(path) ||
    path === "/sys/bus/pci/drivers" ||
    /^\/sys\/bus\/pci\/drivers\/(nvme|vfio-pci)\/(bind|unbind|new_id|remove_id|0000.*)$/.test(
      path,
    ) ||
    path === "/sys/bus/pci/drivers_probe" ||
    /^\/sys\/class\/(block|nvme|nvme-subsystem|vfio|vfio-dev)(\/|$)/.test(path) ||
    /^\/sys\/devices\/(pci0000:00|virtual)$/.test(path) ||
    /^\/sys\/devices\/virtual\/(vfio|nvme-subsystem|block)(\/|$)/.test(path) ||
    path === "/sys/kernel/iommu_groups" ||
    /^\/sys\/kernel\/iommu_groups\/[2-6](\/|$)/.test(path) ||
    DRIVE.test(path);
  return inScope && !NOT_SIMULATED.some((pattern) => pattern.test(path));
}

const PCI = "/sys/bus/pci";
const BLANK = "0000:00:04.0";
const PAIR_A = "0000:00:08.0";

const toVfio = (address: string) => [
  [`${PCI}/devices/${address}/driver_override`, "vfio-pci"],
  [`${PCI}/devices/${address}/driver/unbind`, address],
  [`${PCI}/drivers_probe`, address],
];

/** The writes that lead from the machine after boot to each recorded state. */
const HISTORY: readonly [RecordedState, Partial<KernelSpec>, readonly string[][]][] = [
  ["kernel-bound", { vfioPci: false }, []],
  ["vfio-loaded", {}, []],
  ["unbound", {}, toVfio(BLANK).slice(0, 2)],
  ["vfio-bound", {}, toVfio(BLANK)],
  ["vfio-bound-shared-group", {}, [...toVfio(BLANK), ...toVfio(PAIR_A)]],
  ["no-iommu", { vfioPci: false, iommu: false }, []],
  ["no-iommu-bind-failed", { iommu: false }, toVfio(BLANK)],
];

describe("the simulated kernel", () => {
  test.each(HISTORY)("shows the recorded state of a real one: %s", async (state, spec, writes) => {
    await using real = await temporaryFolder();
    await materialise(state, real.path);
    await using simulated = await temporaryFolder();
    await buildKernelTree(simulated.path, { ...RIG, ...spec });
    await using kernel = await openSimulatedKernel(simulated.path, { appearMs: 5 });
    for (const [path, text] of writes) await kernel.write(path!, text!);

    const expected = visible(real.path);
    expect(Object.keys(expected).length).toBeGreaterThan(250);
    expect(visible(simulated.path)).toEqual(expected);
  });
});
