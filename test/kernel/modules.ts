// The kernel modules of the guest: those it needs with all that these depend on.
import { copyFile, mkdir } from "node:fs/promises";
import { basename, join } from "node:path";
import type { GuestKernel } from "./kernel-package.ts";
import { runTool } from "./run-tool.ts";

/** Those that are built into the kernel are skipped. */
const WANTED = [
  "nvme",
  "vfio",
  "vfio_iommu_type1",
  "vfio-pci",
  "nvme-tcp",
  "nvme-fabrics",
  "virtio_pci",
  "virtio_net",
  "ext4",
  "dm-mod",
];

/** Copies the modules into the root folder of the guest. */
export async function copyModules(kernel: GuestKernel, guestRoot: string): Promise<void> {
  const { release, root } = kernel;
  const modules = join(root, "lib/modules", release);
  const here = join(guestRoot, "lib/modules", release);
  await mkdir(join(here, "kernel"), { recursive: true });
  for (const list of ["modules.builtin", "modules.order"]) {
    await copyFile(join(modules, list), join(here, list));
  }
  for (const file of await moduleFiles(kernel)) {
    if (!file.endsWith(".ko")) throw new Error(`${file} is compressed; this is not unpacked here`);
    await copyFile(file, join(here, "kernel", basename(file)));
  }
  await runTool("depmod", ["-b", guestRoot, release]);
}

async function moduleFiles({ release, root }: GuestKernel): Promise<ReadonlySet<string>> {
  const shown = await Promise.all(
    WANTED.map(
      async (name) =>
        await runTool("modprobe", ["-d", root, "-S", release, "--show-depends", name]),
    ),
  );
  const lines = shown.join("").matchAll(/^insmod (?<file>\S+)/gm);
  return new Set(lines.map(({ groups }) => groups?.["file"] ?? ""));
}
