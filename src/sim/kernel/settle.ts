// Derives the tree from the `driver` links. A bind or unbind changes only that link atomically;
// every other entry is created or removed afterwards. After a process is killed in between, the
// next one completes the tree by settling it.
import { devicePath, listHardware, type Hardware } from "./hardware.ts";
import { hideNvme, showNvme, sweepNvme } from "./nvme-nodes.ts";
import type { Tree } from "./tree.ts";

export const DRIVERS = "/sys/bus/pci/drivers";
export const VFIO_PCI = "vfio-pci";
const GROUPS = "/sys/kernel/iommu_groups";
const VFIO_MAJOR = 244;

export type SettleOptions = {
  /** Addresses of probed functions whose namespace scan is not finished: no block devices yet. */
  readonly scanning?: ReadonlySet<string>;
};

export async function settle(tree: Tree, { scanning }: SettleOptions = {}): Promise<void> {
  const functions = await Promise.all(
    (await listHardware(tree)).map(async (hardware) => ({
      hardware,
      driver: await driverOf(tree, hardware),
    })),
  );
  await settleDriverLinks(tree, functions);
  for (const { hardware, driver } of functions) {
    if (driver !== "nvme") await hideNvme(tree, hardware);
  }
  await sweepNvme(tree);
  for (const { hardware, driver } of functions) {
    if (driver === "nvme") {
      await showNvme(tree, hardware, scanning?.has(hardware.address) !== true);
    }
  }
  await settleVfio(tree, functions);
}

type Bound = { readonly hardware: Hardware; readonly driver: string | undefined };

export async function driverOf(
  tree: Tree,
  hardware: Pick<Hardware, "address">,
): Promise<string | undefined> {
  return await tree.linkName(`${devicePath(hardware)}/driver`);
}

async function settleDriverLinks(tree: Tree, functions: readonly Bound[]): Promise<void> {
  for (const name of await tree.list(DRIVERS)) {
    const here = functions.filter(({ driver }) => driver === name);
    const addresses = new Set(here.map(({ hardware }) => hardware.address));
    for (const entry of await tree.list(`${DRIVERS}/${name}`)) {
      if (/^[0-9a-f]+:/.test(entry) && !addresses.has(entry)) {
        await tree.remove(`${DRIVERS}/${name}/${entry}`);
      }
    }
    for (const { hardware } of here) {
      await tree.link(`${DRIVERS}/${name}/${hardware.address}`, devicePath(hardware));
    }
  }
}

async function settleVfio(tree: Tree, functions: readonly Bound[]): Promise<void> {
  const users = functions.filter(({ driver }) => driver === VFIO_PCI);
  const others = functions.filter(({ driver }) => driver !== VFIO_PCI);
  for (const { hardware } of others) await tree.remove(`${devicePath(hardware)}/vfio-dev`);
  await sweepLinks(tree, "/sys/class/vfio-dev");
  for (const { hardware } of users) await showVfioDevice(tree, hardware);
  const groups = new Set(users.map(({ hardware }) => hardware.iommuGroup));
  for (const group of await tree.list(GROUPS)) {
    if (groups.has(group)) await showGroup(tree, group);
    else await hideGroup(tree, group);
  }
}

async function showVfioDevice(tree: Tree, hardware: Hardware): Promise<void> {
  const path = `${devicePath(hardware)}/vfio-dev`;
  let [name] = await tree.list(path);
  if (name === undefined) {
    const taken = new Set(await tree.list("/sys/class/vfio-dev"));
    let number = 0;
    while (taken.has(`vfio${number}`)) number += 1;
    name = `vfio${number}`;
    const device = { linkTo: devicePath(hardware) };
    await tree.place(path, { [name]: { device, subsystem: { linkTo: "/sys/class/vfio-dev" } } });
  }
  await tree.link(`/sys/class/vfio-dev/${name}`, `${path}/${name}`);
}

async function showGroup(tree: Tree, group: string): Promise<void> {
  await tree.place(`/sys/devices/virtual/vfio/${group}`, {
    dev: `${VFIO_MAJOR}:${group}\n`,
    subsystem: { linkTo: "/sys/class/vfio" },
  });
  await tree.link(`/sys/class/vfio/${group}`, `/sys/devices/virtual/vfio/${group}`);
  await tree.writeNew(`/dev/vfio/${group}`, "");
}

async function hideGroup(tree: Tree, group: string): Promise<void> {
  await tree.remove(`/dev/vfio/${group}`);
  await tree.remove(`/sys/class/vfio/${group}`);
  await tree.remove(`/sys/devices/virtual/vfio/${group}`);
}

async function sweepLinks(tree: Tree, folder: string): Promise<void> {
  for (const name of await tree.list(folder)) {
    if ((await tree.list(`${folder}/${name}/`)).length === 0) {
      await tree.remove(`${folder}/${name}`);
    }
  }
}
