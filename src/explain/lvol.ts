// Why a host cannot connect to a volume: the six questions that an operator asks, in their order, and
// the first thing that stands in the way (DESIGN section 6).
import { addressText, isLoopback } from "../model/address.ts";
import { formatBytes } from "../model/bytes.ts";
import {
  errorCheck,
  nextStepText,
  nodeTrouble,
  stillToCome,
  targetTrouble,
  WAIT,
  type Check,
  type Explanation,
} from "./explanation.ts";
import { lvolState, namespaceState } from "../model/lvol.ts";
import {
  diskName,
  diskTrouble,
  hostTrouble,
  lastErrorOf,
  listenerTrouble,
  lvolTroubles,
  missingTrouble,
  silentAddresses,
  spaceOf,
  spaceTrouble,
  strangerTrouble,
  type LvolFacts,
} from "./lvol-causes.ts";

export function explainLvol(facts: LvolFacts): Explanation {
  const { view, node, steps, inFlight } = facts;
  const { row } = view;
  const troubles = lvolTroubles(facts);
  const [first] = troubles;
  const state = lvolState(view);
  const lastError = state === "UP" ? undefined : lastErrorOf(facts);
  const nextTryTime = stillToCome(row.nextTryTime, node.now);
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

type First = ReturnType<typeof lvolTroubles>[number] | undefined;

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
  const error = lastErrorOf(facts);
  const failing =
    error === undefined ? "nothing stands in the way" : `the last try ended: ${error}`;
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
      : `${state}; generation ${row.generation} is wanted, ${row.observedGeneration} was reached`;
  const about = row.deleteRequestedTime === undefined ? undefined : first;
  const trouble = about ?? nodeTrouble(node);
  const evidence = trouble === undefined ? wanted : `${wanted}; ${trouble.cause}`;
  if (state === "UP" && trouble === undefined) {
    return { question, answer: "YES", evidence, remedy: "" };
  }
  const remedy = trouble?.cure ?? first?.cure ?? "see the other questions";
  return { question, answer: "NO", evidence, remedy };
}

/** Not seen in this run of the target, or not since it was last changed. */
function unseen(question: string, what: string, facts: LvolFacts): Check {
  const { node, view, diskState } = facts;
  const away = targetTrouble(node, view.targetConnected);
  const disk = diskTrouble(facts);
  const onDisk = disk && `its disk is ${diskState ?? "not known"}`;
  const why = away === undefined ? onDisk : "the target is away";
  return {
    question,
    answer: "UNKNOWN",
    evidence: `nothing is known of ${what}: ${why ?? "it is looked at next"}`,
    remedy: (away ?? disk)?.cure ?? cureOf(facts),
  };
}

function no(question: string, trouble: { readonly cause: string; readonly cure: string }): Check {
  return { question, answer: "NO", evidence: trouble.cause, remedy: trouble.cure };
}

/** What a deletion has removed is gone as it should be. */
function goneAsWanted(question: string, facts: LvolFacts, what: string): Check | undefined {
  if (facts.view.row.deleteRequestedTime === undefined) return undefined;
  return { question, answer: "NO", evidence: `${what}, as its deletion wants it`, remedy: "" };
}

function lvolCheck(facts: LvolFacts): Check {
  const { view, disk } = facts;
  const { row, seen } = view;
  const question = "Is its lvol there, whole, and with room to be written?";
  const missing = missingTrouble(facts);
  if (missing !== undefined && row.deleteRequestedTime === undefined) return no(question, missing);
  const space = spaceTrouble(facts);
  if (seen.lvol?.kind !== "present") {
    const gone = row.deleteTime !== undefined || seen.lvol?.kind === "absent";
    const done = gone ? goneAsWanted(question, facts, "its lvol is gone") : undefined;
    if (done !== undefined) return done;
    if (!view.diskReady || seen.lvol === undefined) {
      const name = row.lvolUuid === undefined ? "its lvol" : `lvol ${row.lvolUuid}`;
      return unseen(question, name, facts);
    }
    const [blocking] = lvolTroubles(facts);
    const error = lastErrorOf(facts);
    return no(question, {
      cause: space?.cause ?? `it was not made yet${error === undefined ? "" : `: ${error}`}`,
      cure: space?.cure ?? blocking?.cure ?? WAIT,
    });
  }
  if (space !== undefined) return no(question, space);
  const { uuid, sizeBytes } = seen.lvol;
  const counts = spaceOf(facts);
  const own = counts?.has === undefined ? "" : `, ${counts.has} of ${counts.size} clusters its own`;
  const room = counts && `${own}, ${counts.free} free`;
  const where = disk === undefined ? "" : ` on ${diskName(disk)}`;
  const kind = seen.lvol.thin ? "thin" : "thick";
  const evidence = `lvol ${uuid}, ${formatBytes(sizeBytes)} ${kind}${where}${room ?? ""}`;
  if (sizeBytes >= row.promisedBytes) return { question, answer: "YES", evidence, remedy: "" };
  return no(question, {
    cause: `${evidence}; ${formatBytes(row.promisedBytes)} are wanted`,
    cure: WAIT,
  });
}

function subsystemCheck(facts: LvolFacts): Check {
  const { row, seen } = facts.view;
  const question = "Is its subsystem there?";
  const { subsystem } = seen;
  if (subsystem === undefined && row.deleteTime === undefined) {
    return unseen(question, row.nqn, facts);
  }
  if (subsystem?.kind !== "present") {
    const done = goneAsWanted(question, facts, `${row.nqn} is gone`);
    return done ?? no(question, { cause: `${row.nqn} is not there`, cure: cureOf(facts) });
  }
  const stranger = strangerTrouble(facts);
  if (stranger !== undefined) return no(question, stranger);
  const evidence = `${row.nqn}, serial number ${subsystem.serialNumber}`;
  return { question, answer: "YES", evidence, remedy: "" };
}

/** Of the first thing in the way, or to wait for the next step. */
function cureOf(facts: LvolFacts): string {
  return lvolTroubles(facts)[0]?.cure ?? WAIT;
}

function listenerCheck(facts: LvolFacts): Check {
  const { view } = facts;
  const question = "Does it listen where it should?";
  const wanted = view.listenAddresses.map(addressText).join(" and ");
  const trouble = listenerTrouble(facts);
  if (trouble !== undefined) {
    return no(question, { ...trouble, cause: `wanted: ${wanted}; ${trouble.cause}` });
  }
  if (view.seen.subsystem === undefined && view.row.deleteTime === undefined) {
    return unseen(question, "its subsystem", facts);
  }
  const silent = silentAddresses(facts);
  if (silent.length > 0) {
    const done = goneAsWanted(question, facts, "its subsystem is gone");
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
  const { row, seen } = view;
  const question = "Does it show the volume, and may its hosts connect?";
  if (seen.subsystem === undefined && row.deleteTime === undefined) {
    return unseen(question, "its subsystem", facts);
  }
  const uuid = seen.lvol?.kind === "present" ? seen.lvol.uuid : row.lvolUuid;
  const namespace = namespaceState(row, seen.subsystem, uuid);
  if (seen.subsystem?.kind !== "present" || namespace !== "attached") {
    const done = goneAsWanted(question, facts, "its namespace is gone");
    const cause = `no namespace with the uuid ${row.id}`;
    return done ?? no(question, strangerTrouble(facts) ?? { cause, cure: cureOf(facts) });
  }
  const hosts = hostTrouble(facts);
  const shown = `namespace 1 with the uuid ${row.id}`;
  if (hosts !== undefined) return no(question, { ...hosts, cause: `${shown}; ${hosts.cause}` });
  const { hosts: letIn } = seen.subsystem;
  const kept = row.hosts.filter((host) => !letIn.includes(host));
  const extra = letIn.filter((host) => !row.hosts.includes(host));
  if (kept.length > 0 || extra.length > 0 || seen.subsystem.allowAnyHost !== row.allowAnyHost) {
    const late = [
      ...kept.map((host) => `${host} is not let in yet`),
      ...extra.map((host) => `${host} is still let in`),
    ];
    const cause = `${shown}; ${late.join("; ") || "any host is let in, or not, as it should not be"}`;
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
