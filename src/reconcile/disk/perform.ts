// Performs the steps of disk-init. Each holds its disk's lane alone: attaching, detaching and making
// a store must never overlap a change of an lvol on it (CONTRACT section 9).
import { trace } from "@opentelemetry/api";
import type { Logger } from "pino";
import { addressFamily } from "../../model/address.ts";
import { refusing } from "../../model/disk-claim.ts";
import { blank } from "../../model/evidence.ts";
import type { DiskStatusPatch, DiskRow } from "../../model/disk.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import { inspectFunction } from "../../sysfs/disk-evidence.ts";
import type { Kernel } from "../../sysfs/kernel.ts";
import { listNvme } from "../../sysfs/nvme.ts";
import { claimForVfio, releaseToDriver } from "../../sysfs/vfio.ts";
import { attempt, retryOf, type AfterLoss } from "../engine/attempt.ts";
import type { DiskView } from "./view.ts";
import { disksOnTarget } from "./disks-on-target.ts";
import type { StepResult } from "../engine/driver.ts";
import type { ScanOptions } from "../target/full-scan.ts";
import type { Lane, Lanes } from "../engine/lanes.ts";
import type { Observed } from "../target/observed.ts";
import type * as steps from "../steps.ts";
import { zeroFreeSpace } from "./zero-free-space.ts";

/** What this process knows of its own claims. Gone with the process, so a restart looks anew. */
export type ClaimMemory = {
  /** Blank under the kernel driver in the claim that is still held: may be formatted. */
  readonly blank: Set<string>;
  /** Attached as found, and no store came up: to be handed back and inspected. */
  readonly empty: Set<string>;
};

export type DiskStepContext = {
  readonly spdk: SpdkClient;
  readonly kernel: Kernel;
  readonly observed: Observed;
  readonly lanes: Lanes;
  readonly claims: ClaimMemory;
  readonly afterLoss: AfterLoss;
  readonly log: Logger;
  readonly writer: {
    readonly recordDisk: (
      row: Pick<DiskRow, "id" | "generation">,
      patch: DiskStatusPatch,
    ) => Promise<boolean>;
  };
  readonly scanDisks: () => Promise<void>;
  readonly scanAll: (options: ScanOptions) => Promise<void>;
};

type Act = { readonly context: DiskStepContext; readonly view: DiskView; readonly lane: Lane };

export async function performDiskStep(
  context: DiskStepContext,
  view: DiskView,
  step: steps.DiskStep,
): Promise<StepResult> {
  if (step.kind === "record-disk") {
    const written = await context.writer.recordDisk(view.row, step.patch);
    return written ? { kind: "ok" } : { kind: "retry", message: "the intent changed meanwhile" };
  }
  if (step.kind === "attach-disk") return await attach(context, view, step);
  return await inLane(context, view, (lane) => act({ context, view, lane }, step));
}

/** Holds the disk alone. */
function inLane<T>(
  { lanes }: DiskStepContext,
  { row }: DiskView,
  work: (lane: Lane) => Promise<T>,
): Promise<T> {
  return lanes.run([{ kind: "disk", disk: row.id, mode: "exclusive" }], (lane) => {
    trace.getActiveSpan()?.addEvent("lanes held");
    return work(lane);
  });
}

type LaneStep = Exclude<steps.DiskStep, steps.RecordDisk | steps.AttachDisk>;

function act(on: Act, step: LaneStep): Promise<StepResult> {
  switch (step.kind) {
    case "claim-disk":
      return claim(on, step);
    case "release-function":
      return releaseFunction(on, step);
    case "detach-disk":
      return detach(on, step);
    case "create-store":
      return createStore(on, step);
    case "zero-free-space":
      return zeroFreeSpace({ context: on.context, row: on.view.row, lane: on.lane }, step);
  }
}

/** Looks with the namespaces held exclusively, and lets go of them only after the unbind. */
async function claim({ context, view }: Act, step: steps.ClaimDisk): Promise<StepResult> {
  const { kernel, claims, log } = context;
  const { row } = view;
  const topology = await listNvme(kernel);
  await using inspection = await inspectFunction(kernel, topology, step.address);
  const against = refusing(inspection.evidence, step.ours)[0];
  if (against !== undefined) {
    return { kind: "retry", message: `${against.kind}: ${against.subject} ${against.detail}` };
  }
  const isBlank = blank(inspection.evidence);
  const claimed = await claimForVfio(kernel, step.address, { heldDescriptors: inspection.held });
  if (!claimed.ok) {
    return { kind: "retry", message: `${claimed.reason}: ${claimed.detail || step.address}` };
  }
  if (isBlank) claims.blank.add(row.id);
  claims.empty.delete(row.id);
  log.info({ disk: row.id, address: step.address, blank: isBlank }, "disk claimed for vfio-pci");
  return { kind: "ok" };
}

async function releaseFunction(
  { context, view }: Act,
  step: steps.ReleaseFunction,
): Promise<StepResult> {
  const { kernel, claims, log } = context;
  const given = await releaseToDriver(kernel, step.address, step.driver);
  claims.blank.delete(view.row.id);
  claims.empty.delete(view.row.id);
  if (!given.ok) return { kind: "retry", message: `${given.reason}: ${given.detail}` };
  log.info({ disk: view.row.id, driver: step.driver }, "disk given back to its driver");
  return { kind: "ok" };
}

async function attach(
  context: DiskStepContext,
  view: DiskView,
  step: steps.AttachDisk,
): Promise<StepResult> {
  const { spdk, observed, claims, afterLoss } = context;
  const { row } = view;
  const { controllerName: name, trtype, traddr, trsvcid, subnqn } = step;
  const adrfam = trtype === "PCIe" ? undefined : addressFamily(traddr);
  const attached = await inLane(context, view, (lane) =>
    attempt(
      spdk.bdevNvmeAttachController({ name, trtype, traddr, trsvcid, subnqn, adrfam }),
      lane,
      afterLoss,
    ),
  );
  if (attached.kind === "open") return retryOf([attached]);
  // "Exists" and "this address has another name" are answers too: what is there decides.
  const { incarnation } = observed;
  const unseen = await scanAfterAttach(context, row, attached.kind === "ok");
  if (unseen !== undefined) return { kind: "retry", message: unseen };
  // What was seen is of the run in which it was attached, or says nothing.
  if (incarnation === undefined || observed.incarnation !== incarnation)
    return { kind: "retry", message: "the target went away" };
  const disk = observed.disk(row.id);
  if (disk !== undefined) {
    if (disk.store === undefined && !claims.blank.has(row.id)) claims.empty.add(row.id);
    return { kind: "ok" };
  }
  if (attached.kind === "refused") return retryOf([attached]);
  return await inLane(context, view, (lane) => refuseOther({ context, view, lane }, name));
}

/**
 * What the attach brought, seen in one go: where a store was expected, with all volumes that came up
 * with it. Answers why it could not be looked at.
 */
async function scanAfterAttach(
  context: DiskStepContext,
  row: DiskRow,
  attached: boolean,
): Promise<string | undefined> {
  const { observed, scanDisks, scanAll } = context;
  const expected = attached && row.lvsUuid !== undefined;
  try {
    // A disk that is away is tried again and again: that must not list everything each time.
    if (!expected) await scanDisks();
    if (expected || observed.disk(row.id)?.store !== undefined) {
      await scanAll({ sizes: true, subsystems: false });
    }
    return undefined;
  } catch (error) {
    return `what was attached cannot be listed: ${error instanceof Error ? error.message : ""}`;
  }
}

/** Under the address of this disk another one answered. */
async function refuseOther({ context, view, lane }: Act, name: string): Promise<StepResult> {
  const { spdk, log, afterLoss } = context;
  const { row } = view;
  const found = await disksOnTarget(spdk, new Set([row.nsid]));
  // It is there after all: whoever looked before looked too early.
  if (found.some(({ id }) => id === row.id))
    return { kind: "retry", message: "to be looked at again" };
  const other = found.find((one) => one.controllerName === name);
  log.error({ disk: row.id, serial: row.serial, found: other?.serial }, "another disk answered");
  const gone = await attempt(spdk.bdevNvmeDetachController(name), lane, afterLoss);
  if (gone.kind === "open") return retryOf([gone]);
  return {
    kind: "retry",
    message: `SERIAL_MISMATCH: ${other?.serial ?? "no namespace"} answered for ${row.serial}`,
  };
}

async function detach(on: Act, step: steps.DetachDisk): Promise<StepResult> {
  const { spdk, observed, afterLoss } = on.context;
  const gone = await attempt(
    spdk.bdevNvmeDetachController(step.controllerName),
    on.lane,
    afterLoss,
  );
  if (gone.kind === "ok" || (gone.kind === "refused" && gone.error.kind === "absent")) {
    observed.setDisk(on.view.row.id, undefined);
    return { kind: "ok" };
  }
  return retryOf([gone]);
}

async function createStore(on: Act, step: steps.CreateStore): Promise<StepResult> {
  const { spdk, observed, afterLoss, log } = on.context;
  const { row, onTarget } = on.view;
  const { bdevName, storeName, clusterBytes } = step;
  log.info({ disk: row.id, bdev: bdevName, store: storeName }, "formatting disk");
  const made = await attempt(
    spdk.bdevLvolCreateLvstore({
      bdevName,
      lvsName: storeName,
      clusterBytes,
      clearMethod: "write_zeroes",
    }),
    on.lane,
    afterLoss,
  );
  // Made by this call, or by one whose answer was lost: the store under this name is read back.
  const store = await attempt(spdk.getLvstore({ name: storeName }), on.lane, afterLoss);
  if (store.kind === "ok" && store.value?.baseBdev === bdevName && onTarget !== undefined) {
    observed.setDisk(row.id, { ...onTarget, store: store.value });
    return { kind: "ok" };
  }
  if (made.kind === "ok") return { kind: "retry", message: "store is not where it was made" };
  return retryOf([made]);
}
