// Explains why a host cannot connect to a volume: six checks, in the order in which one depends on
// the other, and the first cause (docs/troubleshooting.md#a-host-cannot-connect).
import { addressText, isLoopback } from "../model/address.ts";
import { formatBytes } from "../model/bytes.ts";
import { diskName } from "../model/free-space.ts";
import {
  errorCheck,
  nextStepText,
  nodeCause,
  ifFuture,
  targetCause,
  WAIT,
  type Check,
  type Explanation,
} from "./explanation.ts";
import { foreignSubsystemCause, hostCause } from "./export-causes.ts";
import { lvolState, namespaceState } from "../model/lvol-state.ts";
import {
  lvolLastError,
  listenerCause,
  lvolCauses,
  dataMissingCause,
  silentAddresses,
  spaceOf,
  outOfSpaceCause,
} from "./lvol-causes.ts";
import { diskCause, type LvolFacts } from "./lvol-facts.ts";

export function explainLvol(facts: LvolFacts): Explanation {
  const { view, node, steps, inFlight } = facts;
  const { row } = view;
  const causes = lvolCauses(facts);
  const [first] = causes;
  const state = lvolState(view);
  const lastError = state === "UP" ? undefined : lvolLastError(facts);
  const nextTryTime = ifFuture(row.nextTryTime, node.now);
  const idle = first?.waits ?? "all is as wanted";
  const nextStep = nextStepText({ steps, inFlight, idle, nextTryTime }, node);
  return {
    summary: summaryOf(facts, first, nextStep),
    checks: [
      rowCheck(facts, first),
      lvolCheck(facts),
      subsystemCheck(facts),
      listenerCheck(facts),
      namespaceCheck(facts),
      errorCheck({ ...row, lastError }, node, first),
    ],
    nextStep,
    lastError,
    nextTryTime,
  };
}

type First = ReturnType<typeof lvolCauses>[number] | undefined;

function summaryOf(facts: LvolFacts, first: First, nextStep: string): string {
  const { view } = facts;
  const { row } = view;
  const state = lvolState(view);
  const head = `volume ${row.id} is ${state}`;
  if (first !== undefined) return `${head}: ${first.cause}; cure: ${first.cure}`;
  if (state === "UP") {
    const where = view.listenAddresses.map(addressText).join(" and ");
    return `${head}: ${hostsText(facts)} to ${row.nqn} on ${where}`;
  }
  const error = lvolLastError(facts);
  const failing =
    error === undefined ? "nothing stands in the way" : `the last attempt failed: ${error}`;
  return `${head}: ${failing}; next step: ${nextStep}`;
}

function rowCheck(facts: LvolFacts, first: First): Check {
  const { view, node } = facts;
  const { row } = view;
  const question = "Is the volume UP, and its agent at work?";
  const state = lvolState(view);
  const wanted =
    row.observedGeneration === row.generation
      ? `${state}, as of generation ${row.generation}`
      : `${state}; generation ${row.generation} is wanted, ${row.observedGeneration} is reached`;
  const about = row.deleteRequestedTime === undefined ? undefined : first;
  const found = about ?? nodeCause(node);
  const evidence = found === undefined ? wanted : `${wanted}; ${found.cause}`;
  if (state === "UP" && found === undefined) {
    return { question, answer: "YES", evidence, remedy: "" };
  }
  const remedy = found?.cure ?? first?.cure ?? "see the other questions";
  return { question, answer: "NO", evidence, remedy };
}

/** The answer UNKNOWN: not observed in this incarnation, or not since it was last changed. */
function unobserved(question: string, what: string, facts: LvolFacts): Check {
  const { node, view, diskState } = facts;
  const away = targetCause(node, view.targetConnected);
  const disk = diskCause(facts);
  const onDisk = disk && `its disk is ${diskState ?? "not known"}`;
  const why = away === undefined ? onDisk : "the SPDK target is not connected";
  return {
    question,
    answer: "UNKNOWN",
    evidence: `nothing is known of ${what}: ${why ?? "it is read next"}`,
    remedy: (away ?? disk)?.cure ?? cureOf(facts),
  };
}

function no(question: string, found: { readonly cause: string; readonly cure: string }): Check {
  return { question, answer: "NO", evidence: found.cause, remedy: found.cure };
}

/** The check of an object that a requested deletion has removed: no remedy is needed. */
function deletedAsRequested(question: string, facts: LvolFacts, what: string): Check | undefined {
  if (facts.view.row.deleteRequestedTime === undefined) return undefined;
  return { question, answer: "NO", evidence: `${what}, as requested by its deletion`, remedy: "" };
}

function lvolCheck(facts: LvolFacts): Check {
  const { view, disk } = facts;
  const { row, observed } = view;
  const question = "Is its lvol there, whole, and with room to be written?";
  const missing = dataMissingCause(facts);
  if (missing !== undefined && row.deleteRequestedTime === undefined) return no(question, missing);
  const space = outOfSpaceCause(facts);
  if (observed.lvol?.kind !== "present") {
    const gone = row.deleteTime !== undefined || observed.lvol?.kind === "absent";
    const done = gone ? deletedAsRequested(question, facts, "its lvol is gone") : undefined;
    if (done !== undefined) return done;
    if (!view.diskReady || observed.lvol === undefined) {
      const name = row.lvolUuid === undefined ? "its lvol" : `lvol ${row.lvolUuid}`;
      return unobserved(question, name, facts);
    }
    const [blocking] = lvolCauses(facts);
    const error = lvolLastError(facts);
    return no(question, {
      cause: space?.cause ?? `it does not exist yet${error === undefined ? "" : `: ${error}`}`,
      cure: space?.cure ?? blocking?.cure ?? WAIT,
    });
  }
  if (space !== undefined) return no(question, space);
  const { uuid, sizeBytes } = observed.lvol;
  const counts = spaceOf(facts);
  const own = counts?.has === undefined ? "" : `, ${counts.has} of ${counts.size} clusters its own`;
  const room = counts && `${own}, ${counts.free} free`;
  const where = disk === undefined ? "" : ` on ${diskName(disk)}`;
  const kind = observed.lvol.thin ? "thin" : "thick";
  const evidence = `lvol ${uuid}, ${formatBytes(sizeBytes)} ${kind}${where}${room ?? ""}`;
  if (sizeBytes >= row.promisedBytes) return { question, answer: "YES", evidence, remedy: "" };
  return no(question, {
    cause: `${evidence}; ${formatBytes(row.promisedBytes)} are wanted`,
    cure: cureOf(facts),
  });
}

function subsystemCheck(facts: LvolFacts): Check {
  const { row, observed } = facts.view;
  const question = "Is its subsystem there?";
  const { subsystem } = observed;
  if (subsystem === undefined && row.deleteTime === undefined) {
    return unobserved(question, row.nqn, facts);
  }
  if (subsystem?.kind !== "present") {
    const done = deletedAsRequested(question, facts, `${row.nqn} is gone`);
    return done ?? no(question, { cause: `${row.nqn} is not there`, cure: cureOf(facts) });
  }
  const foreign = foreignSubsystemCause(facts);
  if (foreign !== undefined) return no(question, foreign);
  const evidence = `${row.nqn}, serial number ${subsystem.serialNumber}`;
  return { question, answer: "YES", evidence, remedy: "" };
}

/** The cure of the first cause, or to wait for the next step. */
function cureOf(facts: LvolFacts): string {
  return lvolCauses(facts)[0]?.cure ?? WAIT;
}

function listenerCheck(facts: LvolFacts): Check {
  const { view } = facts;
  const question = "Does it listen where it should?";
  const wanted = view.listenAddresses.map(addressText).join(" and ");
  const found = listenerCause(facts);
  if (found !== undefined) {
    return no(question, { ...found, cause: `wanted: ${wanted}; ${found.cause}` });
  }
  if (view.observed.subsystem === undefined && view.row.deleteTime === undefined) {
    return unobserved(question, "its subsystem", facts);
  }
  const silent = silentAddresses(facts);
  if (silent.length > 0) {
    const done = deletedAsRequested(question, facts, "its subsystem is gone");
    const where = silent.map(addressText).join(" and ");
    return done ?? no(question, { cause: `not on ${where}`, cure: cureOf(facts) });
  }
  const far = view.listenAddresses.every(({ traddr }) => isLoopback(traddr))
    ? "; only hosts on this machine can reach that (STORAGE_NODE_EXPORT_ADDR)"
    : "";
  return { question, answer: "YES", evidence: `on ${wanted}${far}`, remedy: "" };
}

function namespaceCheck(facts: LvolFacts): Check {
  const { view } = facts;
  const { row, observed } = view;
  const question = "Does it show the volume, and may its hosts connect?";
  if (observed.subsystem === undefined && row.deleteTime === undefined) {
    return unobserved(question, "its subsystem", facts);
  }
  const uuid = observed.lvol?.kind === "present" ? observed.lvol.uuid : row.lvolUuid;
  const namespace = namespaceState(row, observed.subsystem, uuid);
  if (observed.subsystem?.kind !== "present" || namespace !== "attached") {
    const done = deletedAsRequested(question, facts, "its namespace is gone");
    const cause = `no namespace with the uuid ${row.id}`;
    return done ?? no(question, foreignSubsystemCause(facts) ?? { cause, cure: cureOf(facts) });
  }
  const hosts = hostCause(facts);
  const shown = `namespace 1 with the uuid ${row.id}`;
  if (hosts !== undefined) return no(question, { ...hosts, cause: `${shown}; ${hosts.cause}` });
  const { hosts: allowed, allowAnyHost } = observed.subsystem;
  const missing = row.hosts.filter((host) => !allowed.includes(host));
  const extra = allowed.filter((host) => !row.hosts.includes(host));
  if (missing.length > 0 || extra.length > 0 || allowAnyHost !== row.allowAnyHost) {
    const pending = [
      ...missing.map((host) => `${host} is not allowed yet`),
      ...extra.map((host) => `${host} is still allowed`),
    ];
    const anyHost = allowAnyHost ? "any host is still allowed" : "not every host is allowed yet";
    const cause = `${shown}; ${pending.join("; ") || anyHost}`;
    return no(question, { cause, cure: cureOf(facts) });
  }
  const connected = connectedText(facts.connectedHosts);
  return {
    question,
    answer: "YES",
    evidence: `${shown}; ${hostsText(facts)}${connected}`,
    remedy: "",
  };
}

function hostsText({ view: { row } }: LvolFacts): string {
  if (row.allowAnyHost) return "any host may connect";
  const [only] = row.hosts;
  return row.hosts.length === 1 ? `${only} may connect` : `${row.hosts.length} hosts may connect`;
}

function connectedText(connected: readonly string[] | undefined): string {
  if (connected === undefined) return "";
  return connected.length === 0 ? "; none is connected" : `; connected: ${connected.join(", ")}`;
}
