// What the loops would do with an object now, in words a person reads. Plans are pure: asking them
// changes nothing, and hands nothing out.
import { addressText } from "../model/address.ts";
import type { NextStep } from "../explain/explanation.ts";
import type { PendingOp } from "../model/pending-op.ts";
import type { Step, VolumeStep } from "./steps.ts";

/** `permits`: whether the step may be taken now, by the write mode of this agent. */
export function nextSteps(
  planned: readonly { readonly loop: string; readonly step: Step }[],
  permits: (act: Step["kind"]) => boolean,
): readonly NextStep[] {
  return planned.map(({ loop, step }) => ({
    loop,
    words: `${step.kind}: ${describeStep(step)}`,
    allowed: permits(step.kind),
  }));
}

function describeStep(step: Step): string {
  switch (step.kind) {
    case "observe-lvol":
      return `look whether lvol ${step.name} is there`;
    case "observe-subsystem":
      return `look at subsystem ${step.nqn}`;
    case "create-lvol": {
      const { thin, lvolName, sizeBytes, lvsUuid } = step;
      const kind = thin ? "thin" : "thick";
      return `make the ${kind} lvol ${lvolName} of ${sizeBytes} bytes in store ${lvsUuid}`;
    }
    case "prepare-export": {
      const where = listed(step.listeners.map(addressText));
      const whom = step.allowAnyHost ? "any host" : counted(step.hosts);
      return `make subsystem ${step.nqn}, listening on ${where}, for ${whom}`;
    }
    case "adjust-export":
      return `change subsystem ${step.nqn}: ${adjustments(step)}`;
    case "add-namespace":
      return `attach lvol ${step.lvolUuid} to ${step.nqn} as nsid 1`;
    case "delete-subsystem":
      return `delete subsystem ${step.nqn}`;
    case "delete-lvol":
      return `delete lvol ${step.lvolUuid}`;
    case "record-lvol":
    case "record-disk":
      return `write down ${aboutToCome(step.patch.pendingOp)}`;
    case "claim-disk":
      return `take ${step.address} from its kernel driver to vfio-pci`;
    case "release-function":
      return `give ${step.address} back to the driver ${step.driver}`;
    case "attach-disk": {
      const subnqn = step.subnqn === undefined ? "" : ` (${step.subnqn})`;
      return `attach ${step.trtype} ${step.traddr}${subnqn} as ${step.controllerName}`;
    }
    case "detach-disk":
      return `detach ${step.controllerName}`;
    case "create-store":
      return `format ${step.bdevName} as store ${step.storeName}`;
    case "zero-free-space":
      return `zero the free clusters of store ${step.lvsName}`;
  }
}

function aboutToCome(pending: PendingOp | undefined): string {
  return pending === undefined
    ? "what is about to be made"
    : `that ${pending.op} is about to be sent`;
}

function adjustments(step: Extract<VolumeStep, { kind: "adjust-export" }>): string {
  const { removeHosts, addHosts, allowAnyHost, addListeners } = step;
  const changes = [
    ...removeHosts.map((host) => `take ${host}'s access away`),
    ...(allowAnyHost === undefined
      ? []
      : [allowAnyHost ? "let any host in" : "let not any host in"]),
    ...addHosts.map((host) => `let ${host} in`),
    ...addListeners.map((address) => `listen on ${addressText(address)}`),
  ];
  return listed(changes);
}

/** What is left unsaid of a long list is counted. */
const MOST = 4;

function listed(items: readonly string[]): string {
  if (items.length <= MOST) return items.join(", ");
  return `${items.slice(0, MOST).join(", ")} and ${items.length - MOST} more`;
}

function counted(hosts: readonly string[]): string {
  return hosts.length === 0 ? "no host yet" : listed(hosts);
}
