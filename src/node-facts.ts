// Gathers what explanations are made of, from every part of the agent. Reads only, and asks the target
// by name for what nobody keeps: free clusters and who is connected.
import { networkInterfaces } from "node:os";
import type { Agent } from "./api/agent.ts";
import type { Config } from "./config.ts";
import type { LocalLock } from "./local/local-lock.ts";
import { diskState, type DiskRow } from "./model/disk.ts";
import type { DiskFacts } from "./model/disk-troubles.ts";
import type { NodeFacts } from "./model/explain.ts";
import type { LvolRow } from "./model/lvol.ts";
import type { LvolFacts } from "./model/lvol-troubles.ts";
import type { Reconciler } from "./reconcile/reconciler.ts";
import type { SpdkClient } from "./spdk/client.ts";
import type { Fence } from "./store/fence.ts";
import type { Rows } from "./store/rows.ts";
import type { StoreSession } from "./store/session.ts";

/** An explanation does not wait for a target that is slow: what it does not say is not told. */
const LOOK_MS = 1_000;

export type FactSources = {
  readonly config: Config;
  readonly rows: Rows;
  readonly session: Pick<StoreSession, "status" | "leaseStatus">;
  readonly reconciler: Reconciler;
  readonly spdk: Pick<SpdkClient, "getLvstore" | "getBdev" | "nvmfSubsystemGetControllers">;
  readonly fence: Fence;
  readonly lock: Pick<LocalLock, "reason">;
};

export function factsOf(sources: FactSources): Pick<Agent, "lvolFacts" | "diskFacts"> {
  return {
    lvolFacts: (row) => lvolFacts(sources, row),
    diskFacts: (row) => diskFacts(sources, row),
  };
}

async function lvolFacts(sources: FactSources, row: LvolRow): Promise<LvolFacts> {
  const { rows, reconciler, spdk } = sources;
  const disk = rows.disk(row.diskId);
  const looked = reconciler.volumeView(row);
  const store = looked.store?.uuid;
  const { lvol, subsystem } = looked.seen;
  const [freeClusters, bdev, controllers] = await Promise.all([
    store === undefined ? undefined : freeClustersOf(spdk, store),
    lvol?.kind === "present" ? spdk.getBdev(lvol.uuid, soon()).catch(notTold) : undefined,
    subsystem?.kind === "present"
      ? spdk.nvmfSubsystemGetControllers(row.nqn, soon()).catch(notTold)
      : undefined,
  ]);
  // What is told is of one moment: the one after the target was asked.
  const { view, steps, inFlight } = reconciler.planOfVolume(rows.lvol(row.id) ?? row);
  return {
    view,
    disk,
    diskState: disk && diskState(disk, reconciler.diskSeen(disk)),
    clean: view.clean,
    freeClusters,
    allocatedClusters: bdev?.kind === "lvol" ? bdev.lvol.allocatedClusters : undefined,
    connectedHosts: controllers && [...new Set(controllers.map(({ hostNqn }) => hostNqn))],
    node: nodeFacts(sources),
    steps,
    inFlight,
    loopError: loopErrorOf(reconciler, row.id),
  };
}

async function diskFacts(sources: FactSources, row: DiskRow): Promise<DiskFacts> {
  const { config, rows, reconciler, spdk } = sources;
  const asked = row.lvsUuid;
  const freeClusters = asked === undefined ? undefined : await freeClustersOf(spdk, asked);
  const present = rows.disk(row.id) ?? row;
  const { view, steps, inFlight } = reconciler.planOfDisk(present);
  const seen = reconciler.diskSeen(present);
  return {
    ...view,
    state: diskState(present, seen),
    reason: seen.reason,
    freeClusters,
    isolation: config.isolation,
    overcommit: config.overcommit,
    node: nodeFacts(sources),
    steps,
    inFlight,
    loopError: loopErrorOf(reconciler, row.id),
  };
}

function nodeFacts({ config, session, reconciler, fence, lock }: FactSources): NodeFacts {
  const { connected, ...target } = reconciler.target;
  const lease = session.leaseStatus;
  return {
    now: new Date(),
    hold: fence.hold,
    database: session.status,
    lock: { ok: fence.lockHeld, reason: lock.reason },
    lease: { ...lease, ok: fence.leaseHeld, reason: lease.reason || "it has lapsed" },
    kernel: reconciler.kernelStatus,
    target: { ...target, ok: connected, socket: config.spdkSocket },
    ownAddresses: ownAddresses(),
    allowed: fence.allowed,
  };
}

function ownAddresses(): readonly string[] {
  const entries = Object.values(networkInterfaces()).flatMap((some) => some ?? []);
  return [...new Set(entries.map(({ address }) => address))];
}

function soon(): { readonly waitMs: number } {
  return { waitMs: LOOK_MS };
}

async function freeClustersOf(
  spdk: FactSources["spdk"],
  uuid: string,
): Promise<bigint | undefined> {
  return (await spdk.getLvstore({ uuid }, soon()).catch(notTold))?.freeClusters;
}

/** Refused, away or late: the explanation says what was last recorded instead. */
function notTold(): undefined {
  return undefined;
}

/** Loops name the object that their last error was about. */
function loopErrorOf(reconciler: Reconciler, id: string): string | undefined {
  const errors = reconciler.loops().map(({ lastError }) => lastError);
  return errors.find((error) => error?.startsWith(`${id}: `) === true)?.slice(id.length + 2);
}
