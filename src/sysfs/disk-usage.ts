// Evidence of a disk in use: mounts and swap from /proc, device mapper and md devices from the
// holders in sysfs. No single place shows all of it: /proc lists mounts and swap by the name of the
// partition, and only sysfs lists what is stacked on a device
// (docs/kernel.md#where-use-shows). It never writes.
import type { Evidence } from "../model/evidence.ts";
import type { Kernel } from "./kernel.ts";
import type { NvmeNamespace } from "./nvme.ts";

/** Mounts and swap areas of /proc, read once for all disks. */
export type Usage = {
  readonly mounts: readonly Mount[];
  readonly swaps: readonly string[];
  /** False: no mount table could be read, so any device may be mounted. */
  readonly known: boolean;
};

type Mount = {
  /** The source as /proc writes it and, if that is a symbolic link, the path it resolves to. */
  readonly sources: readonly string[];
  /** `major:minor`; for an anonymous device number (btrfs) it is that of no block device. */
  readonly dev: string | undefined;
  readonly mountPoint: string;
};

/**
 * A device whose use is use of the disk: the disk, a partition, or a device stacked on one of them.
 */
type Layer = {
  readonly subject: string;
  readonly paths: readonly string[];
  readonly dev: string;
  /** Name of the stacked device; undefined for the disk or partition itself. */
  readonly through: string | undefined;
};

/** Mount points that the running system or its next boot needs. */
const SYSTEM_MOUNTS = /^\/(?:|usr|efi|boot(?:\/.*)?)$/;

export async function readUsage(kernel: Kernel): Promise<Usage> {
  // The agent may run in a mount namespace of its own: process 1 shows the mounts of the host.
  const [ownMounts, initMounts, namedMounts, swaps] = await Promise.all([
    kernel.read("/proc/self/mountinfo"),
    kernel.read("/proc/1/mountinfo").catch(() => undefined),
    kernel.read("/proc/mounts"),
    kernel.read("/proc/swaps"),
  ]);
  const mounts = [
    ...lines(ownMounts).map(fromMountinfo),
    ...lines(initMounts).map(fromMountinfo),
    ...lines(namedMounts).map(fromMounts),
  ].filter((mount) => mount !== undefined);
  const unique = [...new Map(mounts.map((mount) => [JSON.stringify(mount), mount])).values()];
  return {
    mounts: await Promise.all(
      unique.map(async ({ source, ...rest }) => ({
        ...rest,
        sources: await namesOf(kernel, source),
      })),
    ),
    swaps: (
      await Promise.all(
        lines(swaps)
          .slice(1)
          .map(async (line) => await namesOf(kernel, unescaped(line.split(/\s/)[0] ?? ""))),
      )
    ).flat(),
    known: ownMounts !== undefined || namedMounts !== undefined,
  };
}

/** Evidence of kinds MOUNTED, SWAP, HOLDER and BOOT_DISK. */
export async function inspectUsage(
  kernel: Kernel,
  usage: Usage,
  namespace: NvmeNamespace,
): Promise<readonly Evidence[]> {
  const layers = await layersOf(kernel, namespace);
  return layers.flatMap((layer) => {
    const { subject, through } = layer;
    const by = through === undefined ? "" : ` through ${through}`;
    const mounts = usage.mounts.filter((mount) => isOn(mount, layer));
    const points = [...new Set(mounts.map(({ mountPoint }) => mountPoint))];
    return [
      ...(through === undefined ? [] : [{ kind: "HOLDER", subject, detail: through } as const]),
      ...points.map((at) => ({ kind: "MOUNTED", subject, detail: `on ${at}${by}` }) as const),
      ...points
        .filter((at) => SYSTEM_MOUNTS.test(at))
        .map((at) => ({ kind: "BOOT_DISK", subject, detail: `holds ${at}` }) as const),
      ...(usage.swaps.some((path) => layer.paths.includes(path))
        ? [{ kind: "SWAP", subject, detail: `swap space in use${by}` } as const]
        : []),
    ];
  });
}

function isOn(mount: Mount, layer: Layer): boolean {
  if (layer.dev !== "" && mount.dev === layer.dev) return true;
  return mount.sources.some((source) => layer.paths.includes(source));
}

async function layersOf(kernel: Kernel, namespace: NvmeNamespace): Promise<readonly Layer[]> {
  const { kernelName, dev, holders, partitions } = namespace;
  const subject = namespaceSubject(namespace);
  const bases = [
    { subject, kernelName, dev, holders },
    ...partitions.map((partition) => ({
      ...partition,
      subject: `${subject}p${partition.number}`,
    })),
  ];
  const stacked = await Promise.all(
    bases.map(async (base) => {
      const above = await holdersAbove(kernel, base.holders);
      return above.map((holder) => ({ ...holder, subject: base.subject }));
    }),
  );
  return [
    ...bases.map((base) => ({
      subject: base.subject,
      paths: [`/dev/${base.kernelName}`],
      dev: base.dev,
      through: undefined,
    })),
    ...stacked.flat(),
  ];
}

/** All direct and indirect holders, for example of a file system on LVM on md on a partition. */
async function holdersAbove(
  kernel: Kernel,
  names: readonly string[],
  visited: ReadonlySet<string> = new Set(),
): Promise<readonly Omit<Layer, "subject">[]> {
  const fresh = names.filter((name) => !visited.has(name));
  const known = new Set([...visited, ...fresh]);
  const layers = await Promise.all(
    fresh.map(async (name) => {
      const at = `/sys/class/block/${name}`;
      const [dev, mapped, holders] = await Promise.all([
        kernel.read(`${at}/dev`),
        kernel.read(`${at}/dm/name`),
        kernel.list(`${at}/holders`),
      ]);
      const layer = {
        paths: [`/dev/${name}`, ...(mapped === undefined ? [] : [`/dev/mapper/${mapped}`])],
        dev: dev ?? "",
        // Evidence names the mapped name: dm-N may be another device after the next boot.
        through: mapped === undefined ? name : `device mapper ${mapped}`,
      };
      return [layer, ...(await holdersAbove(kernel, holders, known))];
    }),
  );
  return layers.flat();
}

export function namespaceSubject(namespace: NvmeNamespace): string {
  return `${namespace.serial}/${namespace.nsid}`;
}

async function namesOf(kernel: Kernel, source: string): Promise<readonly string[]> {
  if (!source.startsWith("/dev/")) return [source];
  const real = await kernel.realPath(source);
  return real === undefined || real === source ? [source] : [source, real];
}

type NamedMount = Omit<Mount, "sources"> & { readonly source: string };

/** proc(5): id parent major:minor root mount-point options [optional ...] - type source options */
function fromMountinfo(line: string): NamedMount | undefined {
  const [left, right] = line.split(" - ");
  const [, , dev, , mountPoint] = left?.split(" ") ?? [];
  const source = right?.split(" ")[1];
  if (mountPoint === undefined || source === undefined) return undefined;
  return { source: unescaped(source), dev, mountPoint: unescaped(mountPoint) };
}

function fromMounts(line: string): NamedMount | undefined {
  const [source, mountPoint] = line.split(" ");
  if (source === undefined || mountPoint === undefined) return undefined;
  return { source: unescaped(source), dev: undefined, mountPoint: unescaped(mountPoint) };
}

function lines(text: string | undefined): readonly string[] {
  return (text ?? "").split("\n").filter((line) => line.trim() !== "");
}

/** /proc escapes blanks and backslashes as octal (\040). */
function unescaped(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}
