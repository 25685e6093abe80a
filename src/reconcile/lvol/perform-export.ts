// Performs the steps of the export loop: changes of one subsystem, each in the lane of its NQN. A success
// is stored as an observation; after any other answer the subsystem is unknown and read again.
import { setTimeout as sleep } from "node:timers/promises";
import { sameAddress } from "../../model/lvol.ts";
import type { PresentSubsystem } from "../../model/lvol-state.ts";
import { CUT_OFF_MS } from "../../limits.ts";
import { attempt, retryOf, type Attempt } from "../engine/attempt.ts";
import type { FailedPart, StepResult } from "../engine/kind.ts";
import type * as steps from "../steps.ts";
import { observedSubsystem } from "../target/observed.ts";
import { changing, type PerformedStep } from "./performed-step.ts";

export async function observeSubsystem(
  on: PerformedStep,
  { nqn }: steps.ObserveSubsystem,
): Promise<StepResult> {
  const { observed } = on.context;
  const { id } = on.view.row;
  const mark = on.settled ? observed.readMark : undefined;
  const { subsystem, hosts } = await readBack(on, nqn);
  if (subsystem.kind !== "ok") return retryOf([subsystem]);
  if (hosts.kind === "ok") observed.setConnected(id, hosts.value);
  const found = observedSubsystem(subsystem.value);
  // SPDK begins the requests of a connection in their order, and nothing runs on a subsystem that is gone.
  if (found.kind === "absent" && !on.settled) on.context.outcomes.answeredLater(id);
  // A host that the subsystem does not let in and that is connected all the same keeps it stale.
  const intruder =
    found.kind === "present" && hosts.kind === "ok" && !found.allowAnyHost
      ? hosts.value.find((host) => !found.hosts.includes(host))
      : undefined;
  observed.setSubsystem(id, found, intruder === undefined ? mark : undefined);
  if (intruder === undefined) return { kind: "ok" };
  return { kind: "retry", message: "a host that is not allowed is still connected" };
}

/** The subsystem and the NQNs of the hosts connected to it, in one write. */
async function readBack(on: PerformedStep, nqn: string) {
  const [subsystem, hosts] = await Promise.all([
    attempt(on.context.spdk.getSubsystem(nqn)),
    connectedHosts(on, nqn),
  ]);
  return { subsystem, hosts };
}

/** The NQNs of the hosts connected to a subsystem. */
async function connectedHosts(
  { context }: PerformedStep,
  nqn: string,
): Promise<Attempt<readonly string[]>> {
  const answer = await attempt(context.spdk.nvmfSubsystemGetControllers(nqn));
  if (answer.kind !== "ok") return answer;
  return { kind: "ok", value: [...new Set(answer.value.map(({ hostNqn }) => hostNqn))] };
}

export async function prepareExport(
  on: PerformedStep,
  step: steps.PrepareExport,
): Promise<StepResult> {
  const { spdk, observed } = on.context;
  const { row } = on.view;
  const { nqn, serialNumber, modelNumber, allowAnyHost, hosts, dmrsl } = step;
  const create = { nqn, serialNumber, modelNumber, allowAnyHost, maxNamespaces: 1, dmrsl };
  const wait = waiting(on);
  const [created, ...allowed] = await changeSubsystem(on, [
    () => spdk.nvmfCreateSubsystem(create, wait),
    ...hosts.map((host) => () => spdk.nvmfSubsystemAddHost({ nqn, host }, wait)),
  ]);
  const open = allowed.find(({ kind }) => kind === "open");
  if (created?.kind !== "ok" || open !== undefined) {
    observed.setSubsystem(row.id, undefined);
    return retryOf([...(created === undefined ? [] : [created]), ...allowed]);
  }
  observed.setSubsystem(row.id, {
    kind: "present",
    serialNumber,
    dmrsl,
    allowAnyHost,
    hosts: hosts.filter((_, index) => allowed[index]?.kind === "ok"),
    listeners: [],
    namespaces: [],
  });
  if (!row.exported) observed.setNewExport(row.id);
  return { kind: "ok", failedParts: refusedHosts(hosts, allowed) };
}

function refusedHosts(
  hosts: readonly string[],
  answers: readonly Attempt<unknown>[],
): readonly FailedPart[] {
  return hosts.flatMap((part, index) => {
    const answer = answers[index];
    const result = answer === undefined ? undefined : retryOf([answer]);
    if (result === undefined || result.kind === "ok") return [];
    return [{ step: "allow-host", part, message: result.message }];
  });
}

export async function allowHost(on: PerformedStep, step: steps.AllowHost): Promise<StepResult> {
  const { spdk, rows } = on.context;
  const { nqn, host } = step;
  // The intent may have changed while this step waited for its lane.
  if (rows.lvol(on.view.row.id)?.hosts.includes(host) !== true) return { kind: "ok" };
  return await changed(on, spdk.nvmfSubsystemAddHost({ nqn, host }, waiting(on)), (before) => ({
    hosts: [...before.hosts.filter((one) => one !== host), host],
  }));
}

/** Done when a read after the removal shows neither the host nor a connection of it. */
export async function denyHost(on: PerformedStep, step: steps.DenyHost): Promise<StepResult> {
  const { spdk, observed } = on.context;
  const { id } = on.view.row;
  const { nqn, host } = step;
  const removed = await change(on, spdk.nvmfSubsystemRemoveHost({ nqn, host }, waiting(on)));
  if (removed.kind === "open") {
    observed.setSubsystem(id, undefined);
    return retryOf([removed]);
  }
  // A host that was not there is refused like any other mistake: what is read back decides.
  const mark = observed.readMark;
  const { subsystem, hosts } = await readBack(on, nqn);
  if (subsystem.kind !== "ok" || hosts.kind !== "ok") {
    observed.setSubsystem(id, undefined);
    return retryOf([subsystem, hosts]);
  }
  observed.setConnected(id, hosts.value);
  const found = observedSubsystem(subsystem.value);
  const still = found.kind === "present" && found.hosts.includes(host);
  const connected = hosts.value.includes(host);
  observed.setSubsystem(id, found, still || connected || !on.settled ? undefined : mark);
  if (still) return retryOf([removed]);
  return connected ? { kind: "retry", message: "the host is still connected" } : { kind: "ok" };
}

export async function setAnyHost(on: PerformedStep, step: steps.SetAnyHost): Promise<StepResult> {
  const { nqn, allowAnyHost } = step;
  const call = on.context.spdk.nvmfSubsystemAllowAnyHost({ nqn, allowAnyHost }, waiting(on));
  return await changed(on, call, () => ({ allowAnyHost }));
}

export async function addListener(on: PerformedStep, step: steps.AddListener): Promise<StepResult> {
  const { spdk, observed } = on.context;
  const { nqn, address } = step;
  // Never reachable without its namespace, whatever happened since this was planned.
  const { subsystem } = observed.volume(on.view.row.id);
  if (subsystem?.kind !== "present" || subsystem.namespaces.length === 0) return { kind: "ok" };
  const call = spdk.nvmfSubsystemAddListener({ nqn, address }, waiting(on));
  return await changed(on, call, ({ listeners }) => ({
    listeners: [...listeners.filter((one) => !sameAddress(one, address)), address],
  }));
}

export async function removeListener(
  on: PerformedStep,
  step: steps.RemoveListener,
): Promise<StepResult> {
  const { nqn, address } = step;
  const call = on.context.spdk.nvmfSubsystemRemoveListener({ nqn, address }, waiting(on));
  return await changed(on, call, ({ listeners }) => ({
    listeners: listeners.filter((one) => !sameAddress(one, address)),
  }));
}

export async function addNamespace(
  on: PerformedStep,
  step: steps.AddNamespace,
): Promise<StepResult> {
  const { spdk, observed } = on.context;
  const { id } = on.view.row;
  const { nqn, lvolUuid, uuid, nguid } = step;
  const namespace = { nqn, bdevName: lvolUuid, nsid: 1, uuid, nguid };
  const call = spdk.nvmfSubsystemAddNs(namespace, waiting(on));
  const result = await changed(on, call, () => ({
    namespaces: [{ nsid: 1, bdevName: lvolUuid, uuid }],
  }));
  // SPDK answers a missing bdev, an nsid in use and a bdev that is exported already with the same error:
  // read the lvol again, too.
  if (result.kind !== "ok") observed.setLvol(id, undefined);
  return result;
}

/** See EndExport for the two orders. */
export async function endExport(on: PerformedStep, step: steps.EndExport): Promise<StepResult> {
  const { spdk, observed } = on.context;
  const { id } = on.view.row;
  const { nqn, forced } = step;
  if (forced) {
    if (step.attached) {
      const cut = await change(on, spdk.nvmfSubsystemRemoveNs({ nqn, nsid: 1 }, waiting(on)));
      if (cut.kind !== "ok") {
        observed.setSubsystem(id, undefined);
        return retryOf([cut]);
      }
    }
    if (step.listeners.length > 0) await sleep(CUT_OFF_MS, undefined, { ref: false });
  } else {
    const inUse = await withdraw(on, step);
    if (inUse !== undefined) return inUse;
  }
  const deleted = await change(on, spdk.nvmfDeleteSubsystem(nqn, waiting(on)));
  if (deleted.kind === "ok") {
    observed.setExportEnded(id);
    return { kind: "ok" };
  }
  observed.setSubsystem(id, undefined);
  return retryOf([deleted]);
}

/** Removes the listeners unless a host is connected; what to answer if one is. */
async function withdraw(
  on: PerformedStep,
  { nqn, listeners }: steps.EndExport,
): Promise<StepResult | undefined> {
  const { spdk, observed } = on.context;
  const { id } = on.view.row;
  const before = await connectedHosts(on, nqn);
  if (before.kind !== "ok") return retryOf([before]);
  observed.setConnected(id, before.value);
  if (before.value.length > 0) return inUseBy(before.value);
  if (listeners.length === 0) return undefined;
  const removed = await changeSubsystem(
    on,
    listeners.map(
      (address) => () => spdk.nvmfSubsystemRemoveListener({ nqn, address }, waiting(on)),
    ),
  );
  const after = await connectedHosts(on, nqn);
  const connected = after.kind === "ok" ? after.value : [];
  const withdrawn = [...removed, after].every(({ kind }) => kind === "ok");
  if (withdrawn && connected.length === 0) return undefined;
  // Connected in between, or the listeners did not go: everything stays reachable as it was.
  const back = await changeSubsystem(
    on,
    listeners.map((address) => () => spdk.nvmfSubsystemAddListener({ nqn, address }, waiting(on))),
  );
  observed.setSubsystem(id, undefined);
  if (connected.length > 0) return inUseBy(connected);
  return retryOf([...removed, after, ...back]);
}

/** Without the hosts' names, which do not belong into logs and traces; Explain has them. */
function inUseBy(hosts: readonly string[]): StepResult {
  return { kind: "retry", message: `still in use by ${hosts.length} connected host(s)` };
}

/**
 * One change; its success is an observation. Refused, the subsystem is read again, and is meanwhile what
 * it was: a part that the target refuses again and again makes nothing else of the volume unknown.
 */
async function changed(
  on: PerformedStep,
  call: Promise<unknown>,
  effect: (before: PresentSubsystem) => Partial<PresentSubsystem>,
): Promise<StepResult> {
  const { observed } = on.context;
  const { id } = on.view.row;
  const answer = await change(on, call);
  const before = observed.volume(id).subsystem;
  if (answer.kind === "ok" && before?.kind === "present") {
    observed.setSubsystem(id, { ...before, ...effect(before) });
    return { kind: "ok" };
  }
  if (answer.kind === "refused") observed.expireSubsystem(id);
  else observed.setSubsystem(id, undefined);
  return retryOf([answer]);
}

function waiting({ context }: PerformedStep): { readonly waitMs: number } {
  return { waitMs: context.nvmfWaitMs };
}

/** A change of the subsystem. Answered, it shows that all earlier ones of it have ended, too. */
async function change<T>(on: PerformedStep, call: Promise<T>): Promise<Attempt<T>> {
  const answer = await changing(on, "subsystem", call);
  if (answer.kind === "ok" && !on.settled) on.context.outcomes.answeredLater(on.view.row.id);
  return answer;
}

/**
 * Runs changes of one subsystem: in one write if the SPDK release queues them inside the target, else
 * one after another (docs/spdk-contract.md#behaviour-that-can-hurt).
 */
async function changeSubsystem(
  on: PerformedStep,
  calls: readonly (() => Promise<unknown>)[],
): Promise<readonly Attempt<unknown>[]> {
  const { pipelinePerSubsystem } = await on.context.spdk.capabilities();
  if (pipelinePerSubsystem) return Promise.all(calls.map((call) => change(on, call())));
  const attempts: Attempt<unknown>[] = [];
  for (const call of calls) attempts.push(await change(on, call()));
  return attempts;
}
