// Which processes have a vfio group open: it can be open in one at a time, and SPDK says only -19 then.
// What cannot be read counts as open.
import { errnoOf } from "./errno.ts";
import type { Kernel } from "./kernel.ts";

/** By group, who has it open, for people; the target's own process, if that is known, is left out. */
export async function vfioUsers(
  kernel: Kernel,
  groups: ReadonlySet<string>,
  targetPid: number | undefined,
): Promise<ReadonlyMap<string, string>> {
  const users = new Map<string, string>();
  if (groups.size === 0) return users;
  const pids = (await kernel.list("/proc")).filter((name) => /^\d+$/.test(name));
  await Promise.all(
    pids
      .filter((pid) => pid !== String(targetPid))
      .map(async (pid) => {
        const open = await openGroups(kernel, pid);
        const affected = open === "unreadable" ? groups : open;
        for (const group of affected) {
          if (!groups.has(group)) continue;
          const command = (await kernel.read(`/proc/${pid}/comm`).catch(() => undefined)) ?? "";
          const does = open === "unreadable" ? "cannot be looked at" : "has it open";
          users.set(group, `process ${pid} (${command}) ${does}: /dev/vfio/${group}`);
        }
      }),
  );
  return users;
}

async function openGroups(
  kernel: Kernel,
  pid: string,
): Promise<ReadonlySet<string> | "unreadable"> {
  try {
    const names = await kernel.list(`/proc/${pid}/fd`);
    const targets = await Promise.all(
      names.map(async (name) => await kernel.readLink(`/proc/${pid}/fd/${name}`)),
    );
    const groups = targets.flatMap(
      (target) => /^\/dev\/vfio\/(\d+)$/.exec(target ?? "")?.[1] ?? [],
    );
    return new Set(groups);
  } catch (error) {
    // A process that has ended meanwhile has nothing open.
    return errnoOf(error) === "ESRCH" ? new Set() : "unreadable";
  }
}
