// Performs the step claim-controllers, in the lanes of its controllers and disks: what is on the disks is looked
// at once more, and their functions go to vfio-pci.
import type { Logger } from "pino";
import { isChanged } from "../../model/disk-admission.ts";
import { refusing } from "../../model/disk-claim.ts";
import { evidenceOf, type Evidence } from "../../model/evidence.ts";
import type { Rows } from "../../store/rows.ts";
import { namespacesIn } from "../../sysfs/closure.ts";
import { inspectForClaim } from "../../sysfs/disk-evidence.ts";
import type { Kernel } from "../../sysfs/kernel.ts";
import { listNvme, type NvmeTopology } from "../../sysfs/nvme.ts";
import { claimFunctions } from "../../sysfs/vfio.ts";
import type { StepResult } from "../engine/kind.ts";
import type * as steps from "../steps.ts";
import type { ClaimMemory } from "./claim-memory.ts";
import { isWanted } from "./closure-rules.ts";
import { conflictIn, sightingsOf } from "./places.ts";
import type { ControllerView, DiskThere } from "./view.ts";

export type ClaimContext = {
  readonly kernel: Kernel;
  readonly rows: Rows;
  readonly claims: ClaimMemory;
  readonly log: Logger;
  readonly ownSubjects: () => ReadonlySet<string>;
  /** A claim has found evidence; it may end the admission of a disk. */
  readonly foundInClaim: (diskId: string, evidence: readonly Evidence[]) => Promise<void>;
};

/**
 * Inspects the closure with its namespaces opened exclusively, and closes them only after the last
 * unbind, so that nothing can start to use one of the disks in between.
 */
export async function performClaim(
  context: ClaimContext,
  view: ControllerView,
  step: steps.ClaimControllers,
): Promise<StepResult> {
  const { kernel, rows, claims, log, ownSubjects, foundInClaim } = context;
  const [first] = step.addresses;
  if (first === undefined) return { kind: "ok" };
  const topology = await listNvme(kernel);
  const changed = whatChanged(context, topology, step);
  if (changed !== undefined) return { kind: "retry", message: changed };
  await using inspection = await inspectForClaim(kernel, topology, first);
  // What is held open keeps its name, which another drive may have got until then.
  const changedSince = whatChanged(context, await listNvme(kernel), step);
  if (changedSince !== undefined) return { kind: "retry", message: changedSince };
  const { evidence } = inspection;
  const against = refusing(evidence, ownSubjects())[0];
  const disks = step.disks.flatMap((id) => rows.disk(id) ?? []);
  const stale = disks.filter((disk) => isChanged(disk, evidence));
  if (against !== undefined || stale.length > 0) {
    for (const { id } of disks) await foundInClaim(id, evidence);
    const { kind, subject, detail } = against ?? {
      kind: "EVIDENCE_CHANGED",
      subject: "",
      detail: "",
    };
    return { kind: "retry", message: `${kind}: ${subject} ${detail}`.trimEnd() };
  }
  const unwanted = whatEnded(context, view, step);
  if (unwanted !== undefined) return { kind: "retry", message: unwanted };
  const claimed = await claimFunctions(kernel, step.addresses, {
    heldDescriptors: inspection.held,
  });
  if (!claimed.ok) return { kind: "retry", message: `${claimed.reason}: ${claimed.detail}` };
  const { byDisk } = sightingsOf(topology);
  for (const disk of disks) {
    claims.end(disk.id);
    if (evidenceOf(disk, evidence).length > 0) continue;
    const shown = byDisk.get(disk.id) ?? [];
    const functions = shown.map(({ address }) => address);
    if (functions.length > 0) claims.add(disk.id, "blank", functions);
  }
  log.info({ controllers: step.addresses, disks: step.disks }, "controllers claimed for vfio-pci");
  return { kind: "ok" };
}

/** The functions hold other drives than the step was planned for, or doubles; undefined: they do not. */
function whatChanged(
  { rows }: ClaimContext,
  topology: NvmeTopology,
  { addresses, disks }: steps.ClaimControllers,
): string | undefined {
  const present = topology.functions.filter(({ pciAddress }) => addresses.includes(pciAddress));
  const shown = namespacesIn(present).map(({ serial, model, nsid }) =>
    JSON.stringify([serial, model, nsid]),
  );
  const expected = disks.flatMap((id) => rows.disk(id) ?? []);
  const isSame =
    shown.length === expected.length &&
    expected.every(({ serial, model, nsid }) =>
      shown.includes(JSON.stringify([serial, model, nsid])),
    );
  if (!isSame) return `the drives at ${addresses.join(", ")} are not those that were to be taken`;
  for (const disk of expected) {
    const conflict = conflictIn(topology, rows, disk);
    if (conflict !== undefined) return `CONFLICT: ${conflict}`;
  }
  return undefined;
}

/** Why one of the functions is not to be taken any more; undefined: each still has an admitted disk. */
function whatEnded(
  { rows }: ClaimContext,
  { members }: ControllerView,
  { addresses }: steps.ClaimControllers,
): string | undefined {
  const isAdmitted = ({ row: { id } }: DiskThere) => {
    const row = rows.disk(id);
    return row !== undefined && isWanted(row);
  };
  const ended = members
    .filter(({ address }) => addresses.includes(address))
    .find(({ disks }) => !disks.some(isAdmitted));
  return ended && `none of the disks at ${ended.address} is admitted any more`;
}
