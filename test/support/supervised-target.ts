// A simulated target that is started again whenever it has aborted, as a supervisor does.
import {
  inProcessTarget,
  type InProcessOptions,
  type InProcessTarget,
} from "./in-process-target.ts";

export type SupervisedTarget = InProcessTarget & {
  /** Each attach of the lvol as a namespace aborts the target from now on. */
  readonly trap: (lvolUuid: string, set: boolean) => void;
};

/** How soon a supervisor sees that the process has gone. */
const LOOK_MS = 20;

export async function supervisedTarget(options: InProcessOptions): Promise<SupervisedTarget> {
  const target = await inProcessTarget(options);
  let seen = 0;
  let restarting = Promise.resolve();
  const timer = setInterval(() => {
    if (target.aborts() === seen) return;
    seen = target.aborts();
    restarting = restarting.then(() => target.restart());
  }, LOOK_MS);
  return {
    ...target,
    trap: (lvolUuid, set) => {
      const lvol = target.state().lvol(lvolUuid);
      if (lvol === undefined) throw new Error(`no lvol ${lvolUuid}`);
      lvol.store.base.disk.setTrap(lvol.uuid, set);
      target.state().flush();
    },
    [Symbol.asyncDispose]: async () => {
      clearInterval(timer);
      await restarting;
      await target[Symbol.asyncDispose]();
    },
  };
}
