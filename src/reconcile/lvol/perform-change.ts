// Performs the steps that change an lvol which hosts use: its size and its limits. Each is read back
// before anything is concluded.
import { sameLimits } from "../../model/lvol.ts";
import { namespaceState } from "../../model/lvol-state.ts";
import { limitsText, realLimits } from "../../model/qos.ts";
import { attempt, retryOf } from "../engine/attempt.ts";
import type { StepResult } from "../engine/kind.ts";
import type * as steps from "../steps.ts";
import { observedLvol, observedSubsystem } from "../target/observed.ts";
import { changing, type PerformedStep } from "./performed-step.ts";

export async function resizeLvol(on: PerformedStep, step: steps.ResizeLvol): Promise<StepResult> {
  const { spdk, observed } = on.context;
  const { row, store } = on.view;
  const { lvolUuid: name, sizeBytes } = step;
  if (store === undefined) {
    return { kind: "retry", message: "the lvstore of the volume is not loaded" };
  }
  // Not every release tells of a size that somebody else has changed, and a smaller one cuts off data.
  const before = await attempt(spdk.getBdev(name));
  if (before.kind !== "ok") return retryOf([before]);
  if (before.value?.kind !== "lvol") {
    observed.setLvol(row.id, undefined);
    return { kind: "ok" };
  }
  const present = observedLvol(before.value);
  if (present.sizeBytes >= sizeBytes) {
    observed.setLvol(row.id, present);
    return { kind: "ok" };
  }
  const { growsClones, version } = await spdk.capabilities();
  if (present.parent !== undefined && !growsClones) {
    observed.setLvol(row.id, present);
    const message = `TARGET_TOO_OLD: ${version} dies when a volume with a snapshot is grown`;
    return { kind: "retry", message };
  }
  observed.expectResize(name);
  const grown = await changing(
    on,
    "lvol",
    spdk.bdevLvolResize({ lvsUuid: store.uuid, name, sizeBytes }),
  );
  if (grown.kind === "open") {
    observed.setLvol(row.id, undefined);
    return retryOf([grown]);
  }
  // In one write: a size is not observed before it is known that the namespace shows it.
  const [after, shown] = await Promise.all([readLvol(on, name), isShown(on, name)]);
  if (!shown) observed.expireSubsystem(row.id);
  observed.setLvol(row.id, after);
  if (after === undefined) return retryOf([grown]);
  if (after.sizeBytes < sizeBytes) {
    const message = `the lvol has ${after.sizeBytes} bytes instead of ${sizeBytes} bytes`;
    return grown.kind === "ok" ? { kind: "retry", message } : retryOf([grown]);
  }
  return { kind: "ok" };
}

/**
 * Whether the export, if there is one, still has the lvol as its namespace: SPDK shows no size of a namespace,
 * which is that of its bdev.
 */
async function isShown({ context, view: { row } }: PerformedStep, name: string): Promise<boolean> {
  const { spdk, observed } = context;
  const { subsystem } = observed.volume(row.id);
  if (subsystem?.kind !== "present" || subsystem.namespaces.length === 0) return true;
  const found = await attempt(spdk.getSubsystem(row.nqn));
  if (found.kind !== "ok") return false;
  return namespaceState(row, observedSubsystem(found.value), name) === "attached";
}

export async function setQos(on: PerformedStep, step: steps.SetQos): Promise<StepResult> {
  const { spdk, observed, rows } = on.context;
  const { id } = on.view.row;
  const { lvolUuid: name, limits } = step;
  const { subsystem } = observed.volume(id);
  // The intent and the export may have changed while this step waited for its lanes.
  const row = rows.lvol(id);
  if (row === undefined || namespaceState(row, subsystem, name) !== "attached") {
    return { kind: "ok" };
  }
  if (!sameLimits(realLimits(row.qos), realLimits(limits))) return { kind: "ok" };
  const set = await changing(
    on,
    "lvol",
    spdk.bdevSetQosLimit({
      name,
      rwIosPerSec: limits.rwIops,
      rwMbytesPerSec: limits.rwMibPerSecond,
      rMbytesPerSec: limits.readMibPerSecond,
      wMbytesPerSec: limits.writeMibPerSecond,
    }),
  );
  if (set.kind === "open") {
    observed.setLvol(id, undefined);
    return retryOf([set]);
  }
  const after = await readLvol(on, name);
  observed.setLvol(id, after);
  if (after === undefined || set.kind !== "ok") return retryOf([set]);
  if (sameLimits(after.limits, realLimits(limits))) return { kind: "ok" };
  const message = `limited to ${limitsText(after.limits)} instead of ${limitsText(limits)}`;
  return { kind: "retry", message };
}

/** The lvol as it is now; undefined: not known, and it is read again. */
async function readLvol({ context: { spdk } }: PerformedStep, name: string) {
  const found = await attempt(spdk.getBdev(name));
  return found.kind === "ok" && found.value?.kind === "lvol"
    ? observedLvol(found.value)
    : undefined;
}
