// One change of one subsystem: the target queues changes of a subsystem and applies their effects
// in the order of their starts (docs/spdk-contract.md#what-may-be-sent-together).
import type { Context, Later } from "./method.ts";
import { noSubsystem, RpcError } from "./rpc-error.ts";
import type { Subsystem } from "./nvmf-objects.ts";

const TARGET_NAME = "nvmf_tgt";

export function checkTargetName(name: string | undefined): void {
  if (name === undefined || name === TARGET_NAME) return;
  throw new RpcError(-32602, `NVMf target '${name}' not found`);
}

export function subsystemNamed(
  { target }: Context,
  nqn: string,
  targetName: string | undefined,
): Subsystem {
  checkTargetName(targetName);
  const subsystem = target.subsystems.get(nqn);
  if (subsystem === undefined) throw noSubsystem(nqn);
  return subsystem;
}

export function changeSubsystem(
  { target, release, method }: Context,
  subsystem: Subsystem,
  effect: () => unknown,
): Later {
  const { changing } = subsystem;
  if (changing.length > 0 && !release.queuesPerSubsystem) {
    throw new RpcError(-32603, "subsystem busy, retry later.\n");
  }
  changing.push(method);
  return {
    kind: "later",
    polls: 0,
    order: `subsystem ${subsystem.nqn}`,
    complete: () => {
      changing.splice(changing.indexOf(method), 1);
      if (target.subsystems.get(subsystem.nqn) !== subsystem) {
        throw new RpcError(-32603, "Internal error");
      }
      return effect();
    },
  };
}
