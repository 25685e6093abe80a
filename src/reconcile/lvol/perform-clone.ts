// Performs what makes an lvol a clone: set-parent and inflate-lvol, in the lane of the family.
// The lvol is read back before the lane opens, whatever the answer was.
import { noClones } from "../../spdk/capabilities.ts";
import { attempt, retryOf } from "../engine/attempt.ts";
import type { StepResult } from "../engine/kind.ts";
import type * as steps from "../steps.ts";
import { observedLvol } from "../target/observed.ts";
import { changing, type PerformedStep } from "./performed-step.ts";

export async function setParent(on: PerformedStep, step: steps.SetParent): Promise<StepResult> {
  const { spdk } = on.context;
  const target = await spdk.capabilities();
  if (!target.setParent) {
    return { kind: "retry", message: `TARGET_TOO_OLD: ${noClones(target)}` };
  }
  return await changed(on, step.lvolUuid, (lvsUuid) =>
    spdk.bdevLvolSetParent({ lvsUuid, name: step.lvolUuid, parentName: step.parentUuid }),
  );
}

export async function inflateLvol(on: PerformedStep, step: steps.InflateLvol): Promise<StepResult> {
  const { lvolUuid: name } = step;
  return await changed(on, name, (lvsUuid) => on.context.spdk.bdevLvolInflate({ lvsUuid, name }));
}

async function changed(
  on: PerformedStep,
  lvolUuid: string,
  send: (lvsUuid: string) => Promise<void>,
): Promise<StepResult> {
  const { observed, spdk } = on.context;
  const { row, store } = on.view;
  if (store === undefined)
    return { kind: "retry", message: "the lvstore of the volume is not loaded" };
  const answer = await changing(on, "lvol", send(store.uuid));
  const found = answer.kind === "open" ? undefined : await attempt(spdk.getBdev(lvolUuid));
  const bdev = found?.kind === "ok" ? found.value : undefined;
  observed.setLvol(row.id, bdev?.kind === "lvol" ? observedLvol(bdev) : undefined);
  return retryOf([answer]);
}
