// Gathers the facts for explanations from all parts of the agent. It only reads. It asks the
// target, by name, for what the agent does not keep: free and allocated clusters, and connected
// hosts.
import { networkInterfaces } from "node:os";
import type { Agent } from "./api/agent.ts";
import type { Config } from "./config.ts";
import type { LocalLock } from "./local/local-lock.ts";
import { diskState, type DiskRow } from "./model/disk.ts";
import type { DiskFacts } from "./explain/disk-causes.ts";
import type { NodeFacts } from "./explain/explanation.ts";
import type { LvolRow } from "./model/lvol.ts";
import type { LvolFacts } from "./explain/lvol-facts.ts";
import type { SnapshotFacts } from "./explain/snapshot.ts";
import type { SnapshotRow } from "./model/snapshot.ts";
import type { Reconciler } from "./reconcile/reconciler.ts";
import type { SpdkClient } from "./spdk/client.ts";
import { SpdkUnknownOutcome } from "./spdk/errors.ts";
import { setupChecks, type SetupCheck } from "./explain/setup.ts";
import { socketsOf, TARGET_HUGEPAGES_BYTES } from "./limits.ts";
import { readHostSetup, readTargetLimits } from "./sysfs/host-setup.ts";
import type { Kernel } from "./sysfs/kernel.ts";
import type { Fence } from "./store/fence.ts";
import type { Rows } from "./store/rows.ts";
import type { StoreSession } from "./store/session.ts";
import type { Writer } from "./store/writer.ts";

/** Limit of each question to the target: an explanation leaves out the facts of a slow target. */
const SOON = { waitMs: 1_000 } as const;

export type FactSources = {
  readonly config: Config;
  readonly kernel: Kernel;
  readonly rows: Rows;
  readonly session: Pick<StoreSession, "status" | "leaseStatus">;
  readonly reconciler: Reconciler;
  readonly spdk: Pick<SpdkClient, "getBdev" | "identifyNamespace" | "nvmfSubsystemGetControllers">;
  readonly fence: Fence;
  readonly lock: Pick<LocalLock, "reason">;
  readonly writer: Pick<Writer, "commits">;
};

export function factsOf(
  sources: FactSources,
): Pick<Agent, "lvolFacts" | "snapshotFacts" | "diskFacts"> {
  return {
    snapshotFacts: (row) => snapshotFacts(sources, row),
    lvolFacts: (row) => lvolFacts(sources, row),
    diskFacts: (row) => diskFacts(sources, row),
  };
}

async function lvolFacts(sources: FactSources, row: LvolRow): Promise<LvolFacts> {
  const { rows, reconciler, spdk } = sources;
  const disk = rows.disk(row.diskId);
  const viewBefore = reconciler.volumeView(row);
  const store = viewBefore.store?.uuid;
  const { lvol, subsystem } = viewBefore.observed;
  const questions = new Questions();
  const [lvstore, bdev, controllers] = await Promise.all([
    store === undefined ? undefined : questions.ask(reconciler.readStore(row.diskId, store, SOON)),
    lvol?.kind === "present" ? questions.ask(spdk.getBdev(lvol.uuid, SOON)) : undefined,
    subsystem?.kind === "present"
      ? questions.ask(spdk.nvmfSubsystemGetControllers(row.nqn, SOON))
      : undefined,
  ]);
  // View, steps and the step in flight are read together, after the target has answered, so that
  // they are of the same moment.
  const { view, steps, inFlight } = reconciler.planOfVolume(rows.lvol(row.id) ?? row);
  return {
    view,
    disk,
    diskState: disk && diskState(disk, reconciler.diskReadiness(disk)),
    diskStep: disk && reconciler.planOfDisk(disk).inFlight,
    freeClusters: lvstore?.freeClusters,
    allocatedClusters: bdev?.kind === "lvol" ? bdev.lvol.allocatedClusters : undefined,
    connectedHosts: controllers && [...new Set(controllers.map(({ hostNqn }) => hostNqn))],
    node: nodeFacts(sources, questions.unresponsive),
    steps,
    inFlight,
    loopError: loopErrorOf(reconciler, row.id),
  };
}

function snapshotFacts(sources: FactSources, row: SnapshotRow): SnapshotFacts {
  const { rows, reconciler } = sources;
  const disk = rows.disk(row.diskId);
  return {
    ...reconciler.planOfSnapshot(row),
    disk,
    diskState: disk && diskState(disk, reconciler.diskReadiness(disk)),
    diskStep: disk && reconciler.planOfDisk(disk).inFlight,
    node: nodeFacts(sources, false),
  };
}

async function diskFacts(sources: FactSources, row: DiskRow): Promise<DiskFacts> {
  const { config, rows, reconciler, spdk } = sources;
  const questions = new Questions();
  const { lvsUuid: uuid, nsid } = row;
  const name = reconciler.planOfDisk(row).view.onTarget?.controllerName;
  const [lvstore, identified, setup] = await Promise.all([
    uuid === undefined ? undefined : questions.ask(reconciler.readStore(row.id, uuid, SOON)),
    name === undefined ? undefined : questions.ask(spdk.identifyNamespace({ name, nsid }, SOON)),
    row.transport === "PCIe" && name === undefined ? setupOf(sources) : undefined,
  ]);
  const present = rows.disk(row.id) ?? row;
  const { view, steps, inFlight } = reconciler.planOfDisk(present);
  const observed = reconciler.diskReadiness(present);
  return {
    ...view,
    state: diskState(present, observed),
    reason: observed.reason,
    freeClusters: lvstore?.freeClusters,
    isolation: config.isolation,
    exposure: observed.exposure,
    deallocatedReads: identified?.deallocatedReads,
    overcommit: config.overcommit,
    setup,
    node: nodeFacts(sources, questions.unresponsive),
    steps,
    inFlight,
    loopError: loopErrorOf(reconciler, row.id),
  };
}

/** Undefined: it cannot be read. */
async function setupOf({
  config,
  kernel,
  rows,
  reconciler,
}: FactSources): Promise<readonly SetupCheck[] | undefined> {
  const pid = rows.node?.targetProcess?.pid;
  const running = reconciler.target.answers;
  try {
    const [host, limits] = await Promise.all([
      readHostSetup(kernel, config.root),
      pid === undefined || !running ? undefined : readTargetLimits(kernel, pid),
    ]);
    return setupChecks({
      host,
      target: { running, cpus: undefined, limits, limitsOf: "the target" },
      hugepagesBytes: BigInt(TARGET_HUGEPAGES_BYTES),
      openFiles: socketsOf(config.maxExports),
    });
  } catch {
    return undefined;
  }
}

function nodeFacts(
  { config, session, reconciler, fence, lock, writer }: FactSources,
  unresponsive: boolean,
): NodeFacts {
  const { connected, silent, ...target } = reconciler.target;
  const lease = session.leaseStatus;
  const lvols = reconciler.orphans.known().filter(({ kind }) => kind === "lvol");
  return {
    now: new Date(),
    hold: fence.hold,
    database: session.status,
    lock: { ok: fence.lockHeld, reason: lock.reason },
    lease,
    writes: writer.commits.status,
    kernel: reconciler.kernelStatus,
    target: {
      ...target,
      ok: connected,
      orphanLvols: lvols.length,
      socket: config.spdkSocket,
      unresponsive: unresponsive || silent,
    },
    ownAddresses: ownAddresses(),
    writeMode: fence.writeMode,
  };
}

function ownAddresses(): readonly string[] {
  const entries = Object.values(networkInterfaces()).flatMap((some) => some ?? []);
  return [...new Set(entries.map(({ address }) => address))];
}

/**
 * Asks the target. A question that fails yields undefined; if it timed out after it was sent, the
 * target counts as unresponsive.
 */
class Questions {
  #unresponsive = false;

  get unresponsive(): boolean {
    return this.#unresponsive;
  }

  async ask<T>(answer: Promise<T>): Promise<T | undefined> {
    try {
      return await answer;
    } catch (error) {
      if (error instanceof SpdkUnknownOutcome && error.reason === "timeout")
        this.#unresponsive = true;
      return undefined;
    }
  }
}

/**
 * The last error of a loop if it was about this object: the text of the error begins with the id.
 */
function loopErrorOf(reconciler: Reconciler, id: string): string | undefined {
  const errors = reconciler.loops().map(({ lastError }) => lastError);
  return errors.find((error) => error?.startsWith(`${id}: `) === true)?.slice(id.length + 2);
}
