// A kernel through which a process dies at its nth change of a disk or of a driver: that change and all later
// ones are never made nor answered, and what the process has open is closed.
import type { Kernel, WritableDevice } from "../../src/sysfs/kernel.ts";

export type MortalKernel = Kernel & {
  /** The changes that were begun, by what they change. */
  readonly changes: readonly string[];
  /** Resolves when the process dies. */
  readonly died: Promise<void>;
};

/** nth: counts from 0; undefined: it lives. */
export function mortalKernel(kernel: Kernel, nth?: number): MortalKernel {
  const changes: string[] = [];
  const open = new Set<AsyncDisposable>();
  const death = Promise.withResolvers<void>();
  let isDead = false;
  const change = async (what: string, act: () => Promise<void>): Promise<void> => {
    if (!isDead && changes.push(what) - 1 === nth) {
      isDead = true;
      for (const device of open) await device[Symbol.asyncDispose]();
      death.resolve();
    }
    if (isDead) await new Promise(() => {});
    await act();
  };
  const watched = (device: WritableDevice): WritableDevice => {
    open.add(device);
    return {
      ...device,
      write: async (at, bytes) => await change(`write ${at}`, () => device.write(at, bytes)),
      sync: async () => await change("sync", device.sync),
    };
  };
  return {
    ...kernel,
    changes,
    died: death.promise,
    write: async (path, text) =>
      await change(path.slice(path.lastIndexOf("/") + 1), () => kernel.write(path, text)),
    openExclusive: async (path) => {
      const device = await kernel.openExclusive(path);
      if (device !== undefined) open.add(device);
      return device;
    },
    openToWrite: async (path) => {
      const device = await kernel.openToWrite(path);
      return device && watched(device);
    },
  };
}
