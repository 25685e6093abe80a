// Describes the steps that the loops plan for an object, as text for Explain. Nothing is
// dispatched.
import { addressText } from "../model/address.ts";
import { NO_LIMITS, sameLimits } from "../model/lvol.ts";
import { limitsText } from "../model/qos.ts";
import type { NextStep } from "../explain/explanation.ts";
import type { PendingOp } from "../model/pending-op.ts";
import type {
  ControllerStep,
  DiskStep,
  RecordController,
  RecordDisk,
  SetQos,
  Step,
} from "./steps.ts";

/** @param permits whether the present write mode permits the step */
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
      return `read lvol ${step.name}`;
    case "observe-subsystem":
      return `read subsystem ${step.nqn}`;
    case "create-lvol": {
      const { thin, lvolName, sizeBytes, lvsUuid } = step;
      const kind = thin ? "thin" : "thick";
      return `create the ${kind} lvol ${lvolName} of ${sizeBytes} bytes in lvstore ${lvsUuid}`;
    }
    case "set-parent":
      return `make lvol ${step.lvolUuid} a clone of snapshot ${step.parentUuid}`;
    case "resize-lvol":
      return `grow lvol ${step.lvolUuid} to ${step.sizeBytes} bytes`;
    case "inflate-lvol":
      return `allocate every cluster of lvol ${step.lvolUuid}`;
    case "observe-snapshot":
      return `read snapshot ${step.name}`;
    case "create-snapshot":
      return `take snapshot ${step.snapshotName} of lvol ${step.sourceUuid}`;
    case "delete-snapshot":
      return `delete snapshot ${step.lvolUuid}`;
    case "prepare-export": {
      const whom = step.allowAnyHost ? "any host" : hostsText(step.hosts);
      return `create subsystem ${step.nqn} for ${whom}`;
    }
    case "allow-host":
      return `let host ${step.host} connect to ${step.nqn}`;
    case "deny-host":
      return `remove host ${step.host} from ${step.nqn}`;
    case "set-any-host":
      return `${step.allowAnyHost ? "let" : "no longer let"} any host connect to ${step.nqn}`;
    case "add-namespace":
      return `attach lvol ${step.lvolUuid} to ${step.nqn} as nsid 1`;
    case "add-listener":
      return `listen on ${addressText(step.address)} for ${step.nqn}`;
    case "remove-listener":
      return `no longer listen on ${addressText(step.address)} for ${step.nqn}`;
    case "end-export":
      return step.forced
        ? `delete subsystem ${step.nqn} although hosts may be connected`
        : `delete subsystem ${step.nqn} unless a host is connected`;
    case "set-qos":
      return describeLimits(step);
    case "delete-lvol":
      return `delete lvol ${step.lvolUuid}`;
    case "rename-lvol":
      return `give lvol ${step.lvolUuid} the name ${step.newName}`;
    case "record-lvol":
    case "record-snapshot":
    case "record-disk":
    case "record-controller":
      return `record ${announced(step.patch.pendingOp)}`;
    case "claim-controllers":
    case "release-controllers":
    case "attach-controller":
    case "detach-controller":
      return describeControllerStep(step);
    case "attach-disk":
    case "detach-disk":
    case "rename-store":
    case "create-store":
    case "observe-slices":
    case "pin-free-space":
    case "zero-slice":
    case "wipe-disk":
      return describeDiskStep(step);
  }
}

function describeControllerStep(step: Exclude<ControllerStep, RecordController>): string {
  switch (step.kind) {
    case "claim-controllers":
      return `rebind ${step.addresses.join(", ")} from the kernel driver to vfio-pci`;
    case "release-controllers": {
      const back = step.returns.map(
        ({ address, driver }) => `${address} to ${driver ?? "no driver"}`,
      );
      return `give back ${back.join(", ")}`;
    }
    case "attach-controller":
      return `attach PCIe ${step.traddr} as ${step.controllerName}`;
    case "detach-controller":
      return `detach ${step.controllerName}`;
  }
}

function describeDiskStep(step: Exclude<DiskStep, RecordDisk>): string {
  switch (step.kind) {
    case "attach-disk":
      return `attach ${step.trtype} ${step.traddr} (${step.subnqn}) as ${step.controllerName}`;
    case "detach-disk":
      return `detach ${step.controllerName}`;
    case "rename-store":
      return `give lvstore ${step.oldName} the name ${step.newName}`;
    case "create-store":
      return `format ${step.bdevName} as lvstore ${step.storeName}`;
    case "observe-slices":
      return `read which slices of free space lvstore ${step.lvsUuid} has`;
    case "pin-free-space":
      return `make slices of all free clusters of lvstore ${step.lvsUuid}`;
    case "zero-slice":
      return `zero the free clusters that ${step.name} holds`;
    case "wipe-disk":
      return `zero the first and the last bytes of the disk at ${step.address}`;
  }
}

function describeLimits({ lvolUuid, limits }: SetQos): string {
  if (sameLimits(limits, NO_LIMITS)) return `take all limits from lvol ${lvolUuid}`;
  return `limit lvol ${lvolUuid} to ${limitsText(limits)}`;
}

function announced(pending: PendingOp | undefined): string {
  return pending === undefined
    ? "what is about to be changed"
    : `that ${pending.op} is about to be sent`;
}

/** How many items of a list are named; the others are only counted. */
const MAX_NAMED = 4;

function joined(items: readonly string[]): string {
  if (items.length <= MAX_NAMED) return items.join(", ");
  return `${items.slice(0, MAX_NAMED).join(", ")} and ${items.length - MAX_NAMED} more`;
}

function hostsText(hosts: readonly string[]): string {
  return hosts.length === 0 ? "no host yet" : joined(hosts);
}
