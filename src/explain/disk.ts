// Explains why a disk takes no volumes: seven checks from its admission to its health and its errors, and
// the first cause.
import { formatBytes } from "../model/bytes.ts";
import { refusing } from "../model/disk-claim.ts";
import { promisableBytes } from "../model/disk.ts";
import { healthCheck } from "./disk-health.ts";
import { diskCauses, diskLastError, storeOf, type DiskFacts } from "./disk-causes.ts";
import {
  errorCheck,
  instant,
  nextStepText,
  ifFuture,
  targetCause,
  WAIT,
  type Check,
  type Explanation,
  type Cause,
} from "./explanation.ts";

export function explainDisk(facts: DiskFacts): Explanation {
  const { row, node, steps, inFlight } = facts;
  const causes = diskCauses(facts);
  const [first] = causes.all;
  const lastError = diskLastError(facts);
  const nextTryTime = ifFuture(facts.setback?.nextTryTime ?? row.nextTryTime, node.now);
  const idle = first?.waits ?? "all is as wanted";
  const nextStep = nextStepText({ steps, inFlight, idle, nextTryTime }, node);
  return {
    summary: summaryOf(facts, first, nextStep),
    checks: [
      admissionCheck(facts, causes.node ?? admissionAfter(causes)),
      presenceCheck(facts, causes.presence),
      evidenceCheck(facts, causes.evidence),
      attachCheck(facts, first),
      storeCheck(facts, causes.store, first),
      healthCheck(facts),
      errorCheck({ ...row, lastError }, node, first),
    ],
    nextStep,
    lastError,
    nextTryTime,
  };
}

function summaryOf(facts: DiskFacts, first: Cause | undefined, nextStep: string): string {
  const { row, state } = facts;
  const head = `disk ${row.serial} is ${state}`;
  if (first !== undefined) return `${head}: ${first.cause}; cure: ${first.cure}`;
  if (state === "UP") return `${head}: ${spaceText(facts)}`;
  const error = diskLastError(facts);
  const failing =
    error === undefined ? "nothing stands in the way" : `the last attempt failed: ${error}`;
  return `${head}: ${failing}; next step: ${nextStep}`;
}

function no(question: string, { cause, cure }: Pick<Cause, "cause" | "cure">): Check {
  return { question, answer: "NO", evidence: cause, remedy: cure };
}

function admissionCheck(facts: DiskFacts, found: Cause | undefined): Check {
  const { row, state } = facts;
  const question = "Is it admitted and UP, and its agent at work?";
  const admitted = row.admitted ? `admitted by its serial ${row.admittedSerial}` : "not admitted";
  const evidence = `${state}; ${admitted}`;
  if (found !== undefined) {
    return no(question, { ...found, cause: `${evidence}; ${found.cause}` });
  }
  if (state === "UP") return { question, answer: "YES", evidence, remedy: "" };
  return no(question, { cause: evidence, cure: "see the other questions" });
}

/** What speaks against a disk is ended before it can be admitted. */
function admissionAfter({ admission, evidence }: ReturnType<typeof diskCauses>): Cause | undefined {
  if (admission === undefined || evidence === undefined) return admission;
  return { ...admission, cure: `first what question 3 says; then ${admission.cure}` };
}

function presenceCheck(facts: DiskFacts, found: Cause | undefined): Check {
  const { row, onTarget, inKernel, kernelListed, fabric, node } = facts;
  const question = "Is it found, in the kernel or on the fabric?";
  if (found !== undefined) return no(question, found);
  const lastChange = `last change seen ${instant(row.lastSeenTime)}`;
  if (inKernel !== undefined) {
    const driver = inKernel.driver === undefined ? "no driver" : `driver ${inKernel.driver}`;
    const name = inKernel.kernelName === undefined ? "" : `, ${inKernel.kernelName}`;
    return {
      question,
      answer: "YES",
      evidence: `PCIe function ${inKernel.address}, ${driver}${name}`,
      remedy: "",
    };
  }
  if (onTarget !== undefined) {
    const evidence = `the target has it, ${row.transport} ${row.address}`;
    return { question, answer: "YES", evidence, remedy: "" };
  }
  const fabricText = fabric === undefined ? "" : ` of ${fabric.subnqn}`;
  const where = `${row.transport} ${row.address}${fabricText}, ${lastChange}`;
  const unlisted = row.transport === "PCIe" && !kernelListed ? `; ${node.kernel.reason}` : "";
  return {
    question,
    answer: "UNKNOWN",
    evidence: `${where}${unlisted}`,
    remedy:
      targetCause(node, facts.targetConnected)?.cure ??
      "wait until the target has listed its disks",
  };
}

function evidenceCheck(facts: DiskFacts, found: Cause | undefined): Check {
  const { row, onTarget, inKernel } = facts;
  const question = "Is there no evidence against using it?";
  if (found !== undefined) return no(question, found);
  if (onTarget !== undefined && row.lvsUuid !== undefined) {
    return { question, answer: "YES", evidence: "it holds an lvstore of this node", remedy: "" };
  }
  const { evidence } = inKernel ?? {};
  if (evidence === undefined) return { question, answer: "UNKNOWN", ...notInspected(facts) };
  const against = refusing(evidence, facts.ownSubjects).length;
  const kinds = evidence.map(({ kind }) => kind).join(", ");
  const shown = kinds === "" ? "it is blank" : `${kinds}, which does not count for this disk`;
  return { question, answer: against === 0 ? "YES" : "NO", evidence: shown, remedy: "" };
}

/** It never says to unbind a function: the target may be using it. */
function notInspected({ row, onTarget, inKernel, fabric }: DiskFacts): Inspection {
  if (row.transport !== "PCIe") {
    const entry = `its entry says "format": ${fabric?.format === true}`;
    return { evidence: `a fabric disk cannot be inspected; ${entry}`, remedy: "" };
  }
  if (onTarget !== undefined) {
    return { evidence: "it cannot be inspected while it is attached in SPDK", remedy: "" };
  }
  const evidence = `it cannot be inspected under the driver ${inKernel?.driver ?? "it had"}`;
  if (inKernel === undefined) return { evidence, remedy: "" };
  const { address, driver } = inKernel;
  if (driver === undefined) {
    return {
      evidence: "it cannot be inspected without a driver",
      remedy: `it is inspected once its kernel driver has it: echo ${address} > /sys/bus/pci/drivers_probe`,
    };
  }
  return {
    evidence,
    remedy:
      `ReleaseDisk gives it back to its kernel driver, where it is inspected; if the agent has not taken ` +
      `it from there (ListControllers says UNIDENTIFIED), AdmitDisk with the address ${address} does`,
  };
}

type Inspection = Pick<Check, "evidence" | "remedy">;

function attachCheck(facts: DiskFacts, first: Cause | undefined): Check {
  const { onTarget, targetConnected, targetListed, node } = facts;
  const question = "Is it attached in SPDK?";
  if (onTarget !== undefined) {
    const evidence = `controller ${onTarget.controllerName}, bdev ${onTarget.bdevName}`;
    return { question, answer: "YES", evidence, remedy: "" };
  }
  const away = targetCause(node, targetConnected);
  if (away !== undefined || !targetListed) {
    return {
      question,
      answer: "UNKNOWN",
      evidence: away?.cause ?? "the target has not listed its disks yet",
      remedy: away?.cure ?? "wait until it has listed them",
    };
  }
  const error = diskLastError(facts);
  return no(question, {
    cause: `no controller has its serial${error === undefined ? "" : `; ${error}`}`,
    cure: first?.cure ?? WAIT,
  });
}

function storeCheck(facts: DiskFacts, found: Cause | undefined, first: Cause | undefined): Check {
  const { onTarget, row } = facts;
  const question = "Is its lvstore loaded, of this node, and open to new volumes?";
  if (onTarget === undefined) {
    const known =
      row.lvsUuid === undefined ? "it never had one" : `lvstore ${row.lvsUuid} is on it`;
    return {
      question,
      answer: "UNKNOWN",
      evidence: `${known}; the disk is not attached`,
      remedy: first?.cure ?? WAIT,
    };
  }
  if (found !== undefined) return no(question, found);
  if (onTarget.store === undefined) {
    return no(question, {
      cause: "it has no lvstore",
      cure: first?.cure ?? WAIT,
    });
  }
  const evidence = `lvstore ${onTarget.store.name}; ${spaceText(facts)}`;
  return { question, answer: "YES", evidence, remedy: "" };
}

const LEVEL_TEXT = { OK: "", LOW: ", low on space", CRITICAL: ", very low on space", FULL: "" };

/** Free clusters of the lvstore, bytes promised to volumes, and bytes left to promise. */
function spaceText(facts: DiskFacts): string {
  const { row, overcommit, space: observed } = facts;
  const { free, total, clusterBytes } = storeOf(facts);
  const leftBytes = promisableBytes(row, overcommit) - row.promisedBytes;
  const promise =
    leftBytes > 0n ? `${formatBytes(leftBytes)} left to promise` : "nothing left to promise";
  const space = row.freeSpace === "ZEROED" ? "zeroed" : "which may hold old bytes";
  return (
    `${free} of ${total} clusters free (${formatBytes(free * clusterBytes)}, ${space}), ` +
    `${formatBytes(row.promisedBytes)} promised to ${row.lvolCount} volumes, ${promise}` +
    `${discardText(facts)}${LEVEL_TEXT[observed?.level ?? "OK"]}`
  );
}

/** What is said of discarded blocks: by the operator, and by the drive, whose word is a claim. */
function discardText({ row, deallocatedReads }: DiskFacts): string {
  const asserted = row.discardZeroes ? "; asserted to zero what is discarded" : "";
  const claimed =
    deallocatedReads === undefined
      ? ""
      : `; what the drive claims of deallocated blocks: ${deallocatedReads}`;
  return `${asserted}${claimed}`;
}
