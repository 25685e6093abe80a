// Who uses a disk according to /proc and to what is stacked on it. The kernel shows use in several
// places and in no single one: mounts and swap only in /proc and by the partition's name, device
// mapper and md only as holders.
import type { Evidence } from "../model/evidence.ts";
import type { Kernel } from "./kernel.ts";
import type { NvmeNamespace } from "./nvme.ts";

/** What was found in /proc, read once for all disks. */
export type Usage = {
  readonly mounts: readonly Mount[];
  readonly swaps: readonly string[];
  /** False: nobody can say that something is not mounted. */
  readonly known: boolean;
};

type Mount = {
  /** Device path, a second one if the first was a link. */
  readonly sources: readonly string[];
  /** `major:minor`; of an anonymous file system (btrfs) it names no block device. */
  readonly dev: string | undefined;
  readonly mountPoint: string;
};

/** A device that stands for the disk: itself, a partition, or something stacked on one of them. */
type Layer = {
  readonly subject: string;
  readonly paths: readonly string[];
  readonly dev: string;
  /** What to call it if it is not the subject itself. */
  readonly through: string | undefined;
};

/** Mounts of the running system: without them it does not live or does not boot again. */
const SYSTEM_MOUNTS = /^\/(?:|usr|efi|boot(?:\/.*)?)$/;

export async function readUsage(kernel: Kernel): Promise<Usage> {
  // Process 1 may see mounts that the agent, in a mount namespace of its own, does not.
  const [own, init, named, swaps] = await Promise.all([
    kernel.read("/proc/self/mountinfo"),
    kernel.read("/proc/1/mountinfo").catch(() => undefined),
    kernel.read("/proc/mounts"),
    kernel.read("/proc/swaps"),
  ]);
  const mounts = [
    ...lines(own).map(fromMountinfo),
    ...lines(init).map(fromMountinfo),
    ...lines(named).map(fromMounts),
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
    known: own !== undefined || named !== undefined,
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

/** Holders and their holders: a file system on LVM on md lies two floors above the partition. */
async function holdersAbove(
  kernel: Kernel,
  names: readonly string[],
  observed: ReadonlySet<string> = new Set(),
): Promise<readonly Omit<Layer, "subject">[]> {
  const fresh = names.filter((name) => !observed.has(name));
  const known = new Set([...observed, ...fresh]);
  const floors = await Promise.all(
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
        // dm-0 is another device after the next boot, its mapped name is not.
        through: mapped === undefined ? name : `device mapper ${mapped}`,
      };
      return [layer, ...(await holdersAbove(kernel, holders, known))];
    }),
  );
  return floors.flat();
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

/** Blanks and backslashes stand as octal in /proc. */
function unescaped(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}
