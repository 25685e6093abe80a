// Which processes use a vfio group: they have it open, or a function of it through its own device node, as virtual
// machines with iommufd do. A group can be used by one process at a time, and SPDK says only -19 then.
// What cannot be read counts as open.
import { basename } from "node:path";
import { errnoOf } from "./errno.ts";
import type { Kernel } from "./kernel.ts";

/** What a process has open; the group is undefined where it may be any. */
type Open = { readonly group: string | undefined; readonly what: string };

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
        const open = await openBy(kernel, pid);
        if (open !== "unreadable" && open.length === 0) return;
        const command = (await kernel.read(`/proc/${pid}/comm`).catch(() => undefined)) ?? "";
        for (const group of groups) {
          const use = useOf(open, group);
          if (use !== undefined) users.set(group, `process ${pid} (${command}) ${use}`);
        }
      }),
  );
  return users;
}

function useOf(open: readonly Open[] | "unreadable", group: string): string | undefined {
  if (open === "unreadable") return `cannot be looked at: /dev/vfio/${group}`;
  const use = open.find((one) => one.group === undefined || one.group === group);
  return use && `has it open: ${use.what}`;
}

async function openBy(kernel: Kernel, pid: string): Promise<readonly Open[] | "unreadable"> {
  try {
    const names = await kernel.list(`/proc/${pid}/fd`);
    const opened = await Promise.all(
      names.map(async (name) => {
        const what = (await kernel.readLink(`/proc/${pid}/fd/${name}`)) ?? "";
        const [, group] = /^\/dev\/vfio\/(\d+)$/.exec(what) ?? [];
        if (group !== undefined) return [{ group, what }];
        const [, device] = /^\/dev\/vfio\/devices\/(vfio\d+)$/.exec(what) ?? [];
        return device === undefined ? [] : [{ group: await groupOf(kernel, device), what }];
      }),
    );
    return opened.flat();
  } catch (error) {
    // A process that has ended meanwhile has nothing open.
    return errnoOf(error) === "ESRCH" ? [] : "unreadable";
  }
}

/** The group of the function that a device node is of; undefined: it does not show. */
async function groupOf(kernel: Kernel, device: string): Promise<string | undefined> {
  const link = await kernel.readLink(`/sys/class/vfio-dev/${device}/device/iommu_group`);
  return link && basename(link);
}
