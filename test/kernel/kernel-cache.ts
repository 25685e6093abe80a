// Where the kernel and the parts of the guest are kept between two runs.
import { join } from "node:path";
import { cacheFolder } from "../../src/demo/cache-folder.ts";

/** $STORAGE_NODE_TEST_KERNEL_CACHE, or a folder below the user's cache. */
export function kernelCache(): string {
  const chosen = process.env["STORAGE_NODE_TEST_KERNEL_CACHE"];
  return chosen ?? join(cacheFolder(process.env), "kernel-tests");
}
