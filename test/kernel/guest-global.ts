// What all machines of a run share: the kernel and the initramfs with this checkout's agent.
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { TestProject } from "vitest/node";
import { identityOf } from "../../src/demo/process-identity.ts";
import { buildInitramfs } from "./initramfs.ts";
import { kernelCache } from "./kernel-cache.ts";
import { guestKernel } from "./kernel-package.ts";

export type GuestImages = {
  readonly kernelImage: string;
  readonly initramfs: string;
  /** Path of the real target that is in the initramfs; undefined: only the simulated one. */
  readonly spdkTarget: string | undefined;
};

declare module "vitest" {
  interface ProvidedContext {
    readonly guest: GuestImages;
  }
}

export async function setup(project: TestProject): Promise<() => Promise<void>> {
  const cache = kernelCache();
  const spdkTarget = process.env["STORAGE_NODE_TEST_SPDK_TGT"];
  const kernel = await guestKernel(cache);
  await removeLeftOvers(cache);
  const folder = await mkdtemp(join(cache, `run-${process.pid}-`));
  const initramfs = join(folder, "initramfs");
  await buildInitramfs(initramfs, { cache, kernel, spdkTarget });
  project.provide("guest", { kernelImage: kernel.image, initramfs, spdkTarget });
  return async () => await rm(folder, { recursive: true, force: true });
}

/** What killed runs have left: an initramfs has 150 MB. */
async function removeLeftOvers(cache: string): Promise<void> {
  for (const name of await readdir(cache)) {
    const pid = /^run-(?<pid>\d+)-/.exec(name)?.groups?.["pid"];
    if (pid === undefined || identityOf(Number(pid)) !== undefined) continue;
    await rm(join(cache, name), { recursive: true, force: true });
  }
}
