// Performs the steps that change an lvol which hosts use: its size and its limits. Each is read back
// before anything is concluded.
import { sameLimits } from "../../model/lvol.ts";
import { namespaceState } from "../../model/lvol-state.ts";
import { limitsText, realLimits } from "../../model/qos.ts";
import { attempt, retryOf } from "../engine/attempt.ts";
import type { StepResult } from "../engine/kind.ts";
import type * as steps from "../steps.ts";
import { observedLvol } from "../target/observed.ts";
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
  const after = await readBack(on, name);
  if (after === undefined) return retryOf([grown]);
  if (after.sizeBytes < sizeBytes) {
    const message = `the lvol has ${after.sizeBytes} bytes instead of ${sizeBytes} bytes`;
    return grown.kind === "ok" ? { kind: "retry", message } : retryOf([grown]);
  }
  // SPDK shows no size of a namespace: it has that of its bdev, if it is still the namespace's.
  const { subsystem } = observed.volume(row.id);
  const shown = subsystem?.kind === "present" && subsystem.namespaces.length > 0;
  if (shown) observed.expireSubsystem(row.id);
  return { kind: "ok" };
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
  const after = await readBack(on, name);
  if (after === undefined || set.kind !== "ok") return retryOf([set]);
  if (sameLimits(after.limits, realLimits(limits))) return { kind: "ok" };
  const message = `limited to ${limitsText(after.limits)} instead of ${limitsText(limits)}`;
  return { kind: "retry", message };
}

/** The lvol as it is now; undefined: not known, and it is read again. */
async function readBack({ context, view }: PerformedStep, name: string) {
  const { spdk, observed } = context;
  const found = await attempt(spdk.getBdev(name));
  const lvol =
    found.kind === "ok" && found.value?.kind === "lvol" ? observedLvol(found.value) : undefined;
  observed.setLvol(view.row.id, lvol);
  return lvol;
}
