// What this node lacks to run an agent: settings, files, database, target and machine. It reads only: it
// takes no lock, migrates nothing, makes no folder, and sends the target two reads.
import { constants } from "node:fs";
import { access, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { ConfigError, readConfig, type Config } from "../config.ts";
import { isAllowed } from "../config-disks.ts";
import { setupChecks, type SetupCheck, type TargetSetup } from "../explain/setup.ts";
import { DOCTOR_WAIT_MS, socketsOf, TARGET_HUGEPAGES_BYTES } from "../limits.ts";
import type { HostSetup } from "../model/host-setup.ts";
import { openKernel, type Kernel } from "../sysfs/kernel.ts";
import { readHostSetup, readOwnLimits, readTargetLimits } from "../sysfs/host-setup.ts";
import { askTarget, type AskedTarget } from "./asked-target.ts";
import { databaseCheck } from "./database-check.ts";

type Environment = Readonly<Record<string, string | undefined>>;

/** In the order in which they are cured. */
export async function examine(env: Environment): Promise<readonly SetupCheck[]> {
  const { config, check } = settings(env);
  const root = config?.root ?? env["STORAGE_NODE_ROOT"] ?? "/";
  const kernel = openKernel(root);
  const [host, asked, ...own] = await Promise.all([
    readHostSetup(kernel, root).catch(errorOf),
    config === undefined ? undefined : askTarget(config.spdkSocket, DOCTOR_WAIT_MS),
    ...(config === undefined
      ? []
      : [stateFolder(config), lockFile(config, kernel), databaseCheck(config.databaseUrl)]),
  ]);
  const agent = [check, ...own, ...(asked === undefined ? [] : [asked.check])];
  if (host instanceof Error) {
    const cure = "make /sys and /proc readable, or correct STORAGE_NODE_ROOT";
    return [...agent, { name: "machine", verdict: "MISSING", found: host.message, cure }];
  }
  const target = await targetSetup(kernel, asked);
  return [
    ...agent,
    ...setupChecks({
      host,
      target,
      hugepagesBytes: BigInt(TARGET_HUGEPAGES_BYTES),
      openFiles: socketsOf(config?.maxExports ?? 0),
    }),
    ...(config === undefined ? [] : [allowList(config, host)]),
  ];
}

function errorOf(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}

function settings(env: Environment): { readonly config?: Config; readonly check: SetupCheck } {
  try {
    const config = readConfig(env);
    const found = `node ${config.nodeId} of fleet ${config.fleet}`;
    return { config, check: { name: "settings", verdict: "OK", found, cure: "" } };
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const found = error.faults.join("; ");
    const cure =
      "set them as docs/configuration.md says; without them no more is checked of the agent";
    return { check: { name: "settings", verdict: "MISSING", found, cure } };
  }
}

async function stateFolder({ stateDir }: Config): Promise<SetupCheck> {
  const name = "state folder";
  const folder = await firstPresent(stateDir);
  const made = folder === stateDir ? stateDir : `${stateDir} (to be made in ${folder})`;
  if (await isWritable(folder)) return { name, verdict: "OK", found: made, cure: "" };
  const found = `${made}: this user may not write there`;
  return { name, verdict: "MISSING", found, cure: `install -d -m 0700 -o USER ${stateDir}` };
}

/** A folder that is not there is made by the agent, in the nearest one that is. */
async function firstPresent(path: string): Promise<string> {
  const isThere = await stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
  return isThere || dirname(path) === path ? path : await firstPresent(dirname(path));
}

async function isWritable(path: string): Promise<boolean> {
  return await access(path, constants.W_OK | constants.X_OK).then(
    () => true,
    () => false,
  );
}

/** Held by whom: as the kernel lists its locks, since trying it would be to take it. */
async function lockFile({ spdkSocket }: Config, kernel: Kernel): Promise<SetupCheck> {
  const name = "lock file";
  const path = `${spdkSocket}.agent`;
  const found = await stat(path).catch(() => undefined);
  if (found === undefined) {
    const folder = dirname(path);
    if (await isWritable(folder)) {
      return { name, verdict: "OK", found: `${path} is not there yet, no agent ran`, cure: "" };
    }
    const why = `${path} cannot be made: this user may not write to ${folder}`;
    return {
      name,
      verdict: "MISSING",
      found: why,
      cure: `give this user ${folder}, or run as root`,
    };
  }
  const who = holderOf(await kernel.read("/proc/locks").catch(() => undefined), found.ino);
  const isOpen = await access(path, constants.R_OK | constants.W_OK).then(
    () => true,
    () => false,
  );
  if (isOpen) return { name, verdict: "OK", found: `${path}, ${who}`, cure: "" };
  const why = `${path}, ${who}; this user may not open it`;
  return { name, verdict: "MISSING", found: why, cure: `chown USER ${path}, or run as root` };
}

/** locks: text of /proc/locks, undefined if it cannot be read. */
function holderOf(locks: string | undefined, inode: number): string {
  if (locks === undefined) return "the kernel does not say who holds it";
  const pid = locks
    .split("\n")
    .map((line) => /POSIX +\S+ +\S+ +(\d+) +\S+:(\d+) /.exec(line))
    .find((match) => match?.[2] === String(inode))?.[1];
  return pid === undefined ? "no agent holds it" : `held by the agent with pid ${pid}`;
}

async function targetSetup(kernel: Kernel, asked: AskedTarget | undefined): Promise<TargetSetup> {
  const { answers: running = false, cpus, pid } = asked ?? {};
  const own = pid === undefined ? undefined : await readTargetLimits(kernel, pid);
  if (own !== undefined) return { running, cpus, limits: own, limitsOf: "the target" };
  return { running, cpus, limits: await readOwnLimits(kernel), limitsOf: "this shell" };
}

function allowList({ diskAllow, diskPolicy }: Config, { drives }: HostSetup): SetupCheck {
  const name = "allow list";
  const readable = drives.flatMap(({ address, serial, model }) =>
    serial === undefined || model === undefined ? [] : [{ address, serial, model }],
  );
  const matched = readable.filter((drive) => isAllowed(diskAllow, drive));
  const found =
    `${matched.length} of ${readable.length} drives that can be identified, ` +
    `${drives.length} in all; policy ${diskPolicy}`;
  if (diskPolicy === "manual" || matched.length > 0 || readable.length === 0) {
    return { name, verdict: "OK", found, cure: "" };
  }
  const cure =
    "STORAGE_NODE_DISK_ALLOW=serial:..., model:... or address:..., or call AdmitDisk for each";
  return { name, verdict: "ADVICE", found: `${found}, so it admits none of them`, cure };
}
