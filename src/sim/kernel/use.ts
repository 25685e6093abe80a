// Puts a simulated disk to use: a mount, swap space, or a device stacked on it. As in the kernel,
// the use shows in /proc or among the holders, and stays when the drive is removed.
import { devicePath, type Hardware } from "./hardware.ts";
import type { Tree } from "./tree.ts";

export type Use =
  | { readonly kind: "mount"; readonly at: string }
  | { readonly kind: "swap" }
  /** A device-mapper device of this name. */
  | { readonly kind: "holder"; readonly name: string };

/** Partition 0 is the whole namespace. */
export type Place = { readonly nsid: number; readonly partition: number };

export async function putToUse(
  tree: Tree,
  hardware: Pick<Hardware, "address">,
  place: Place,
  use: Use,
): Promise<void> {
  const device = await blockPath(tree, hardware, place);
  const name = device.slice(device.lastIndexOf("/") + 1);
  const dev = (await tree.read(`${device}/dev`))?.trim() ?? "";
  switch (use.kind) {
    case "mount":
      await append(tree, "/proc/mounts", `/dev/${name} ${use.at} ext4 rw,relatime 0 0`);
      await append(
        tree,
        "/proc/self/mountinfo",
        `40 1 ${dev} / ${use.at} rw,relatime - ext4 /dev/${name} rw`,
      );
      return;
    case "swap":
      await append(tree, "/proc/swaps", `/dev/${name}\t\tpartition\t130044\t\t0\t\t-2`);
      return;
    case "holder":
      await stack(tree, device, use.name);
      return;
    default:
      use satisfies never;
  }
}

/** umount(8) of the mount point `at`. */
export async function unmount(tree: Tree, at: string): Promise<void> {
  const without = async (path: string, column: number) => {
    const lines = ((await tree.read(path)) ?? "").split("\n");
    const kept = lines.filter((line) => line.split(" ")[column] !== at);
    await tree.write(path, kept.join("\n"));
  };
  await without("/proc/mounts", 1);
  await without("/proc/self/mountinfo", 4);
}

async function blockPath(
  tree: Tree,
  hardware: Pick<Hardware, "address">,
  { nsid, partition }: Place,
): Promise<string> {
  const nvme = `${devicePath(hardware)}/nvme`;
  const [controller = ""] = await tree.list(nvme);
  for (const child of await tree.list(`${nvme}/${controller}`)) {
    const path = `${nvme}/${controller}/${child}`;
    if ((await tree.read(`${path}/nsid`))?.trim() === String(nsid)) {
      return partition === 0 ? path : `${path}/${child}p${partition}`;
    }
  }
  throw new Error(`no block device for namespace ${nsid} of ${hardware.address}`);
}

async function stack(tree: Tree, device: string, name: string): Promise<void> {
  const number = (await tree.list("/sys/devices/virtual/block")).length;
  const path = `/sys/devices/virtual/block/dm-${number}`;
  const below = device.slice(device.lastIndexOf("/") + 1);
  const size = await tree.read(`${device}/size`);
  await tree.place(path, {
    dev: `254:${number}\n`,
    dm: { name: `${name}\n` },
    hidden: "0\n",
    holders: {},
    queue: { hw_sector_size: "512\n", logical_block_size: "512\n", physical_block_size: "512\n" },
    removable: "0\n",
    ro: "0\n",
    size: size ?? "0\n",
    slaves: { [below]: { linkTo: device } },
    subsystem: { linkTo: "/sys/class/block" },
  });
  await tree.link(`/sys/class/block/dm-${number}`, path);
  await tree.link(`/sys/block/dm-${number}`, path);
  await tree.writeNew(`/dev/dm-${number}`, "");
  await tree.link(`${device}/holders/dm-${number}`, path);
}

async function append(tree: Tree, path: string, line: string): Promise<void> {
  await tree.write(path, `${(await tree.read(path)) ?? ""}${line}\n`);
}
