// Processes that have a vfio group open, as /proc shows them. A group is open in one process at a time.
import {
  mkdirSync,
  readFileSync,
  readlinkSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";

/** The descriptor under which a process has its groups open: `FIRST + index`. */
const FIRST_DESCRIPTOR = 10;

export type GroupUser = {
  readonly pid: number;
  /** As /proc/PID/comm shows it. */
  readonly command: string;
};

/** Path of a file that holds the process id of the process that has a vfio group open. */
function groupOpenPath(group: string): string {
  return `/var/sim/open-groups/${group}`;
}

/** The process opens the group, until closeGroup or its end. */
export function openGroup(root: string, group: string, { pid, command }: GroupUser): void {
  const folder = join(root, `proc/${pid}/fd`);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(root, `proc/${pid}/comm`), `${command}\n`);
  if (!groupsOf(root, pid).has(group)) {
    const taken = readdirSync(folder).map(Number);
    const descriptor = Math.max(FIRST_DESCRIPTOR, ...taken.map((one) => one + 1));
    symlinkSync(`/dev/vfio/${group}`, join(folder, `${descriptor}`));
  }
  mkdirSync(join(root, "var/sim/open-groups"), { recursive: true });
  writeFileSync(join(root, groupOpenPath(group)), `${pid}\n`);
}

export function closeGroup(root: string, group: string, pid: number): void {
  const descriptor = groupsOf(root, pid).get(group);
  if (descriptor !== undefined) rmSync(join(root, `proc/${pid}/fd/${descriptor}`));
  rmSync(join(root, groupOpenPath(group)), { force: true });
}

/** Whether a process has the group open; one that has exited has not. */
export function groupIsOpen(root: string, group: string): boolean {
  let text: string;
  try {
    text = readFileSync(join(root, groupOpenPath(group)), "utf8");
  } catch {
    return false;
  }
  return isAlive(Number(text));
}

export function isAlive(pid: number): boolean {
  if (!Number.isSafeInteger(pid) || pid <= 0) return false;
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

/** Descriptors by group. */
function groupsOf(root: string, pid: number): ReadonlyMap<string, string> {
  const folder = join(root, `proc/${pid}/fd`);
  const links = readdirSync(folder).map(
    (name) => [readlinkSync(join(folder, name)), name] as const,
  );
  return new Map(links.map(([target, name]) => [target.slice("/dev/vfio/".length), name]));
}
