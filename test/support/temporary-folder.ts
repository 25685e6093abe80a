// A folder that exists for one test.
import { accessSync, constants } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

export type TemporaryFolder = AsyncDisposable & { readonly path: string };

/** In /dev/shm if available: a simulated kernel tree is thousands of small files. */
export async function temporaryFolder(): Promise<TemporaryFolder> {
  const path = await mkdtemp(join(memoryFolder() ?? tmpdir(), "sn-"));
  return {
    path,
    [Symbol.asyncDispose]: async () => await rm(path, { recursive: true, force: true }),
  };
}

function memoryFolder(): string | undefined {
  const path = "/dev/shm";
  try {
    accessSync(path, constants.W_OK | constants.X_OK);
    return path;
  } catch {
    return undefined;
  }
}
