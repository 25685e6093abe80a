// Formats an explanation as text: cause, cure, the six checks, next step, last error.
import { labelled, wrap } from "./client/text.ts";
import { CheckAnswer, type Check } from "../gen/storagenode/v1/node.ts";
import type { ExplainResponse } from "../gen/storagenode/v1/storage_node.ts";

/** Separator of cause and cure in ExplainResponse.summary. */
const CURE = "; cure: ";
const LABEL = 12;
const INDENT = " ".repeat(LABEL);

export function explanationText(
  { summary, checks, nextStep, nextTryTime, lastError }: ExplainResponse,
  view: { readonly width: number; readonly grpcurl: string; readonly now: Date },
): string {
  const { width, grpcurl, now } = view;
  const [cause = "", ...cures] = summary.split(CURE);
  const cure = cures.join(CURE);
  const lines = (label: string, text: string) => labelled(label, text, { width, label: LABEL });
  const parts = [wrap(cause, width)];
  if (cure !== "") parts.push(lines("cure", cure));
  parts.push("", ...checks.map((check, index) => checkText(check, index + 1, { width, cure })), "");
  parts.push(lines("next step", nextStep));
  if (nextTryTime !== undefined) parts.push(lines("next try", tryText(nextTryTime, now)));
  if (lastError !== "") parts.push(lines("last error", lastError));
  if (checks.some(({ remedy }) => remedy.includes("call "))) {
    // Not wrapped, so that it can be copied.
    parts.push(
      "",
      `to call a method: grpcurl -d JSON ${grpcurl} storagenode.v1.StorageNode/METHOD`,
    );
  }
  return parts.join("\n");
}

function checkText(
  { question, answer, evidence, remedy }: Check,
  number: number,
  { width, cure }: { readonly width: number; readonly cure: string },
): string {
  const lines = [`${number}  ${answerText(answer).padEnd(LABEL - 3)}${question}`];
  if (evidence !== "") lines.push(wrap(evidence, width, INDENT));
  // Do not repeat the cure that is printed at the top.
  if (remedy !== "")
    lines.push(wrap(`-> ${remedy === cure ? "see the cure above" : remedy}`, width, INDENT));
  return lines.join("\n");
}

function answerText(answer: CheckAnswer): string {
  switch (answer) {
    case CheckAnswer.CHECK_ANSWER_YES:
      return "yes";
    case CheckAnswer.CHECK_ANSWER_NO:
      return "NO";
    case CheckAnswer.CHECK_ANSWER_UNKNOWN:
    case CheckAnswer.CHECK_ANSWER_UNSPECIFIED:
    case CheckAnswer.UNRECOGNIZED:
      return "unknown";
  }
}

function tryText(time: Date, now: Date): string {
  const seconds = Math.max(0, Math.ceil((time.getTime() - now.getTime()) / 1_000));
  return `in ${seconds} s (${time.toISOString().slice(0, 19)}Z)`;
}
