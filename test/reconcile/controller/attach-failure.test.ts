import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";
import { attachFailureCause } from "../../../src/reconcile/controller/attach-failure.ts";
import { SpdkError } from "../../../src/spdk/errors.ts";
import { openKernel } from "../../../src/sysfs/kernel.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const ANSWER = new SpdkError("bdev_nvme_attach_controller", -19, "No such device");
const UNSAFE = "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
const LIMITS = "Max locked memory         8388608              8388608     bytes\n";

test.each([
  ["nothing that could be read", {}, /answered -19 \(No such device\); see the target's log/],
  [
    "--no-huge",
    { "proc/7/cmdline": "nvmf_tgt\0--no-huge\0" },
    /--no-huge, and vfio needs hugepages/,
  ],
  [
    "a memlock limit",
    { "proc/7/comm": "reactor_0\n", "proc/7/limits": LIMITS },
    /may lock only 8388608 bytes.*ulimit -l unlimited/,
  ],
  [
    "no memlock limit, as it may lock memory beyond it",
    {
      "proc/7/comm": "reactor_0\n",
      "proc/7/limits": LIMITS,
      "proc/7/status": "CapEff:\t000001ffffffffff\n",
    },
    /answered -19 \(No such device\); see the target's log/,
  ],
  ["no free hugepage", { "proc/meminfo": "HugePages_Free:        0\n" }, /no hugepage is free/],
  ["no interrupt remapping", { [UNSAFE]: "N\n" }, /allow_unsafe_interrupts=1/],
] as const)(
  "an attach that is refused names what stands against it: %s",
  async (_what, files, text) => {
    await using folder = await temporaryFolder();
    for (const [path, content] of Object.entries(files)) {
      await mkdir(dirname(join(folder.path, path)), { recursive: true });
      await writeFile(join(folder.path, path), content);
    }
    expect(await attachFailureCause(openKernel(folder.path), ANSWER, 7)).toMatch(text);
  },
);
