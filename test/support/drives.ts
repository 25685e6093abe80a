// A node whose drives are local ones: a simulated kernel, and a target that attaches through it.
import type { DiskStatus } from "../../src/gen/storagenode/v1/disk.ts";
import type { KernelSpec, SimulatedDrive } from "../../src/sim/kernel/build-tree.ts";
import type { Timing } from "../../src/node.ts";
import type { Kernel } from "../../src/sysfs/kernel.ts";
import { call, startAgent, until, type TestAgent } from "./agent.ts";
import { testDatabase, type TestDatabase } from "./database.ts";
import { functionAt, kernelScenario, type KernelScenario } from "./kernel-scenario.ts";
import { startTarget, type TestTarget } from "./target.ts";

export const GIB = 1024n ** 3n;
const BLOCK = 4096;

/** Drive 1 at 0000:01:00.0 with the serial SER1 in IOMMU group 1, and so on. */
export function drive(
  index: number,
  change: Partial<SimulatedDrive["namespaces"][number]> = {},
): SimulatedDrive {
  return {
    address: `0000:0${index}:00.0`,
    serial: `SER${index}`,
    model: "KERNEL DISK",
    iommuGroup: `${index}`,
    namespaces: [{ sizeBytes: 4n * GIB, blockSizeBytes: BLOCK, ...change }],
  };
}

export type NodeWithDrives = AsyncDisposable & {
  readonly kernel: KernelScenario;
  readonly target: TestTarget;
  readonly database: TestDatabase;
  /** Policy auto and every drive allowed, unless the environment says otherwise. */
  readonly start: (
    env?: Readonly<Record<string, string>>,
    how?: { readonly kernel?: Kernel; readonly timing?: Partial<Timing> },
  ) => Promise<TestAgent>;
};

/** others: drives that are plugged in later. */
export async function nodeWithDrives(
  spec: KernelSpec,
  others: readonly SimulatedDrive[] = [],
): Promise<NodeWithDrives> {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await testDatabase());
  const kernel = stack.use(await kernelScenario(spec));
  const drives = new Map([...spec.drives, ...others].map((one) => [one.id ?? one.serial, one]));
  const disks = [...drives].flatMap(([id, { serial, model, address, namespaces }]) =>
    namespaces.map(({ sizeBytes }, index) => ({
      id,
      serial,
      model,
      nsid: index + 1,
      block_size: BLOCK,
      num_blocks: Number(sizeBytes / BigInt(BLOCK)),
      trtype: "PCIe",
      traddr: address,
    })),
  );
  const target = stack.use(await startTarget({ drives: { root: kernel.root, disks } }));
  return {
    kernel,
    target,
    database,
    start: async (change = {}, how = {}) => {
      const root = { STORAGE_NODE_ROOT: kernel.root };
      const env = { STORAGE_NODE_DISK_ALLOW: "model:*", ...root, ...change };
      const parts = { url: database.url, target, kernel: kernel.kernel, ...how };
      const agent = stack.use(await startAgent(parts, env));
      await agent.ready();
      return agent;
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

type Client = Pick<TestAgent, "client">;

const ALL = { pageSize: 0, pageToken: "" };

async function disksWith(agent: Client, serial: string, nsid: number) {
  const { client } = agent;
  const { disks } = await call(client, client.listDisks.bind(client), ALL);
  return disks.filter(({ status }) => status?.serial === serial && status.nsid === nsid);
}

/** Throws if it is not listed. */
export async function diskIdOf(agent: Client, serial: string, nsid = 1): Promise<string> {
  const id = (await disksWith(agent, serial, nsid))[0]?.meta?.id;
  if (id === undefined) throw new Error(`no disk with serial ${serial} is listed`);
  return id;
}

export async function diskOf(
  agent: Client,
  serial: string,
  nsid = 1,
): Promise<DiskStatus | undefined> {
  return (await disksWith(agent, serial, nsid))[0]?.status;
}

export async function conditionOf(agent: Client, serial: string, type: string) {
  return (await diskOf(agent, serial))?.conditions.find((condition) => condition.type === type);
}

/** "OK", or the error. By address, if one is given. */
export async function admit(
  agent: Client,
  serial: string,
  nsid = 1,
  address = "",
): Promise<unknown> {
  const { client } = agent;
  const [disk] = address === "" ? await disksWith(agent, serial, nsid) : [];
  const unset = { evidenceFingerprint: "", discardZeroes: false, waitTimeout: undefined };
  const request = { diskId: disk?.meta?.id ?? "", serial, address, ...unset };
  try {
    await call(client, client.admitDisk.bind(client), request);
    return "OK";
  } catch (error) {
    return error;
  }
}

/** What differs from a wipe of what the disk shows now. */
export type AskedWipe = {
  readonly nsid?: number;
  readonly serial?: string;
  readonly fingerprint?: string;
  readonly confirmation?: string;
  readonly reason?: string;
  readonly seconds?: number;
};

/** Waits until it is done, by default. */
export async function wipe({ client }: Client, serial: string, asked: AskedWipe = {}) {
  const page = { pageSize: 0, pageToken: "" };
  const { disks } = await call(client, client.listDisks.bind(client), page);
  const isIts = ({ status }: (typeof disks)[number]) =>
    status?.serial === serial && status.nsid === (asked.nsid ?? 1);
  const disk = disks.find(isIts);
  const { seconds = 20 } = asked;
  return await call(client, client.wipeDisk.bind(client), {
    diskId: disk?.meta?.id ?? "",
    serial: asked.serial ?? serial,
    evidenceFingerprint: asked.fingerprint ?? disk?.status?.evidenceFingerprint ?? "",
    reason: asked.reason ?? "to be used by this node",
    confirmation: asked.confirmation ?? `destroy all data on ${asked.serial ?? serial}`,
    waitTimeout: seconds === 0 ? undefined : { seconds: BigInt(seconds), nanos: 0 },
  });
}

export async function controllersOf({ client }: Client) {
  return (await call(client, client.listControllers.bind(client), ALL)).controllers;
}

/** States by serial, of first namespaces. */
export async function settled(
  agent: Client,
  states: Readonly<Record<string, string>>,
): Promise<void> {
  await until(`disks are ${JSON.stringify(states)}`, async () => {
    const { client } = agent;
    const { disks } = await call(client, client.listDisks.bind(client), ALL);
    return Object.entries(states).every(([serial, state]) =>
      disks.some(
        ({ status }) => status?.serial === serial && status.nsid === 1 && status.state === state,
      ),
    );
  });
}

export async function driverAt(
  { kernel }: Pick<NodeWithDrives, "kernel">,
  address: string,
): Promise<string | undefined> {
  return (await functionAt(kernel.kernel, address)).driver;
}
