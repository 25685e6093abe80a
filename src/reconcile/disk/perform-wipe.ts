// Performs the step wipe-disk. It holds the lanes of all that is taken together with the disk, opens the disk
// exclusively for writing, and looks once more at what is on it: only what was asked for is destroyed.
import { trace } from "@opentelemetry/api";
import type { Logger } from "pino";
import { hasDrive } from "../../model/controller.ts";
import { evidenceText } from "../../model/disk-claim.ts";
import type { DiskRow, DiskStatusPatch } from "../../model/disk.ts";
import { evidenceOf } from "../../model/evidence.ts";
import { againstWiping, isAsAsked, type Wipe } from "../../model/wipe.ts";
import type { WriteMode } from "../../store/fence.ts";
import type { Rows } from "../../store/rows.ts";
import { closureOf } from "../../sysfs/closure.ts";
import { gatherEvidence, inspectForProbe, inspectForWipe } from "../../sysfs/disk-evidence.ts";
import { errnoOf } from "../../sysfs/errno.ts";
import type { Kernel } from "../../sysfs/kernel.ts";
import { listNvme, readDriver, type NvmeTopology } from "../../sysfs/nvme.ts";
import { probeAgain, releaseFunctions } from "../../sysfs/vfio.ts";
import { zeroEnds } from "../../sysfs/zero-ends.ts";
import { conflictIn } from "../controller/places.ts";
import { KERNEL_DRIVER } from "../controller/closure-rules.ts";
import type { StepResult } from "../engine/kind.ts";
import type { LaneKey, Lanes } from "../engine/lanes.ts";
import type * as steps from "../steps.ts";
import type { Looks } from "./looks.ts";
import { endedWipe, isTaken, placeOfWipe, wiped } from "./wipe.ts";

export type WipeContext = {
  readonly kernel: Kernel;
  readonly rows: Rows;
  readonly lanes: Lanes;
  readonly log: Logger;
  readonly writer: {
    readonly recordDisk: (
      row: Pick<DiskRow, "id" | "generation">,
      patch: DiskStatusPatch,
    ) => Promise<boolean>;
  };
  readonly writeMode: () => WriteMode;
  readonly looks: Pick<Looks, "found" | "forget">;
};

type Place = NonNullable<ReturnType<typeof placeOfWipe>>;

const OK = { kind: "ok" } as const;
const retry = (message: string) => ({ kind: "retry", message }) as const;
const CHANGED = "the intent changed before the status was committed";

export async function performWipe(
  context: WipeContext,
  { id }: Pick<DiskRow, "id">,
  { address }: steps.WipeDisk,
): Promise<StepResult> {
  const keys = lanesAround(context, await listNvme(context.kernel), { id, address });
  return await context.lanes.run(keys, async () => {
    trace.getActiveSpan()?.addEvent("lanes held");
    const row = context.rows.disk(id);
    if (row?.wipe === undefined || isTaken(row)) return OK;
    const result = await wipe(context, row, row.wipe);
    // The disk, and others of its controller, may have other names and contents now.
    for (const disk of context.rows.disks()) context.looks.forget(disk.id);
    return result;
  });
}

function lanesAround(
  { rows }: WipeContext,
  topology: NvmeTopology,
  { id, address }: { readonly id: string; readonly address: string },
): readonly LaneKey[] {
  const members = closureOf(topology, address).map(({ pciAddress }) => pciAddress);
  const addresses = new Set([address, ...members]);
  const disks = [...rows.disks()].filter((disk) =>
    [...addresses].some((one) => {
      const controller = rows.controller(one);
      return disk.id === id || (controller !== undefined && hasDrive(controller, disk));
    }),
  );
  return [
    ...[...addresses].map((one) => ({ kind: "controller", address: one }) as const),
    ...disks.map((disk) => ({ kind: "disk", disk: disk.id, mode: "exclusive" }) as const),
  ];
}

async function wipe(context: WipeContext, row: DiskRow, asked: Wipe): Promise<StepResult> {
  const { kernel, rows } = context;
  const notBack = await bindAgain(context, asked);
  if (notBack !== undefined) return retry(notBack);
  const topology = await listNvme(kernel);
  const conflict = conflictIn(topology, rows, row);
  if (conflict !== undefined) return retry(`CONFLICT: ${conflict}`);
  const place = placeOfWipe(topology, row);
  if (place === undefined) return retry("its kernel driver does not show it");
  const failed = await zero(context, { row, asked, topology, place });
  if (failed !== undefined) return failed;
  return await finish(context, row, { place, address: addressOf(place) });
}

const addressOf = ({ functions: [first = ""] }: Place) => first;

/** Functions that an earlier try has left without a driver; why that failed, or undefined. */
async function bindAgain({ kernel }: WipeContext, { begun }: Wipe): Promise<string | undefined> {
  const drivers = await Promise.all(
    (begun?.functions ?? []).map(
      async (address) => [address, await readDriver(kernel, address)] as const,
    ),
  );
  const returns = drivers.flatMap(([address, driver]) =>
    driver === undefined ? [{ address, driver: KERNEL_DRIVER }] : [],
  );
  if (returns.length === 0) return undefined;
  const bound = await releaseFunctions(kernel, returns);
  return bound.ok ? undefined : `${bound.reason}: ${bound.detail}`;
}

/** Zeroes the ends of the disk; undefined: that is done. */
async function zero(
  context: WipeContext,
  on: {
    readonly row: DiskRow;
    readonly asked: Wipe;
    readonly topology: NvmeTopology;
    readonly place: Place;
  },
): Promise<StepResult | undefined> {
  const { kernel, writer, writeMode, looks, log } = context;
  const { row, asked, topology, place } = on;
  await using inspection = await inspectForWipe(
    kernel,
    topology,
    addressOf(place),
    place.kernelName,
  );
  const { evidence, device } = inspection;
  // No policy admits a disk on which this was seen.
  looks.found(row.id, [...asked.evidence, ...evidence]);
  const own = evidenceOf(row, evidence);
  if (!isAsAsked(asked, own)) {
    const seen = own.length === 0 ? "nothing is on it any more" : own.map(evidenceText).join("; ");
    const why = `EVIDENCE_CHANGED: ${seen}`;
    log.warn({ disk: row.id, serial: row.serial, why }, "disk changed, and is not wiped");
    const written = await writer.recordDisk(row, endedWipe(row, new Date(), why));
    return written ? OK : retry(CHANGED);
  }
  const [against] = againstWiping(row, evidence, place);
  if (against !== undefined) return retry(evidenceText(against));
  if (device === undefined) return retry("it cannot be opened exclusively");
  const begun = { time: new Date(), functions: place.functions };
  if (!(await writer.recordDisk(row, { wipe: { ...asked, begun } }))) return retry(CHANGED);
  log.warn({ disk: row.id, serial: row.serial, ...asked }, "wiping disk");
  try {
    const failure = await zeroEnds(device, place.sizeBytes, () => writeMode() === "read-write");
    return failure === undefined ? undefined : retry(failure);
  } catch (error) {
    return retry(`cannot be written: ${errnoOf(error) ?? String(error)}`);
  }
}

/** Has the kernel read the partition table again if it still shows one, and looks at what is left. */
async function finish(
  context: WipeContext,
  row: DiskRow,
  { place, address }: { readonly place: Place; readonly address: string },
): Promise<StepResult> {
  const { kernel, writer, looks, log } = context;
  // Where udev runs, the partitions went when the descriptor was closed.
  const listed = await listNvme(kernel);
  const after = placeOfWipe(listed, row);
  if (after?.partitions === true) {
    // What nobody has recorded nobody would bind again.
    if (after.functions.join() !== place.functions.join()) return retry("it was moved meanwhile");
    const failure = await readTableAnew(context, row, { topology: listed, place: after });
    if (failure !== undefined) return retry(failure);
  }
  const topology = await listNvme(kernel);
  if (placeOfWipe(topology, row) === undefined) return retry("its kernel driver does not show it");
  const evidence = await gatherEvidence(kernel, topology, address);
  const left = evidenceOf(row, evidence);
  if (left.length > 0) return retry(`it is not blank: ${left.map(evidenceText).join("; ")}`);
  // Before the caller who waits for it reads why the disk is not UP.
  looks.forget(row.id);
  if (!(await writer.recordDisk(row, wiped(row, evidence)))) return retry(CHANGED);
  log.warn({ disk: row.id, serial: row.serial }, "disk wiped");
  return OK;
}

/**
 * Has the functions of the disk probed again. All that loses its driver meanwhile is held, so that nobody uses it:
 * it was looked at before the disk was zeroed, and may have been put to use since. Why that failed, or undefined.
 */
async function readTableAnew(
  { kernel }: WipeContext,
  row: DiskRow,
  { topology, place }: { readonly topology: NvmeTopology; readonly place: Place },
): Promise<string | undefined> {
  await using inspection = await inspectForProbe(kernel, topology, place.functions);
  const [against] = againstWiping(row, inspection.evidence, place);
  if (against !== undefined) return evidenceText(against);
  const { held: heldDescriptors } = inspection;
  const probed = await probeAgain(kernel, place.functions, { heldDescriptors });
  return probed.ok ? undefined : `${probed.reason}: ${probed.detail}`;
}
