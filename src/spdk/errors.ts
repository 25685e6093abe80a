// Classification of SPDK's errors. A kind is never proof that an object exists or does not:
// unrelated causes share codes, so callers read the object back
// (docs/spdk-contract.md#error-codes).

import type { NotSent, Settled } from "./outcome.ts";

/**
 * A hint for back-off, messages and the choice of what to read back. `vague`: the method answers
 * this code for several causes, one of them that the change is already done.
 */
export type SpdkErrorKind =
  | "exists"
  | "absent"
  | "busy"
  | "no_space"
  | "no_memory"
  | "invalid"
  | "not_permitted"
  | "io"
  | "conflict"
  | "timeout"
  | "unsupported"
  | "vague"
  | "internal";

/**
 * | code | kind | where (docs/spdk-contract.md#error-codes; headings in brackets) |
 * | --- | --- | --- |
 * | -1 | not_permitted | create_lvstore on a bdev in use, its own repeat included (lvstores) |
 * | -2 | absent | a file or store not found; 24.01: create behind a detach |
 * | -5, -6 | io | attach refused; a path that does not match (attach) |
 * | -11, -16 | busy | |
 * | -12 | no_memory | |
 * | -17 | exists | names of lvols and stores (lvols) |
 * | -17 of attach | conflict | the address is attached under another name (attach) |
 * | -19 | absent | bdev, lvol, store, transport; of attach: any cause, so vague (attach) |
 * | -22 | invalid | names, clusters, QoS without limits |
 * | -22, 22 of get_controllers | absent | no controller of that name (states; 22 before 26.09) |
 * | -28 | no_space | |
 * | -110 | timeout | a bdev that was not registered in time; detach on 25.05 (releases) |
 * | -114 | exists | attach: a controller of that name (attach) |
 * | -32601 | unsupported | the release lacks the method |
 * | -32602, -32603 with an errno's text | by that errno | late part of lvol and store calls (lvols) |
 * | -32602 of nvmf_get_subsystems | absent | no other cause: its only parameter is a string (nvmf) |
 * | -32602 of other nvmf_* | vague | invalid, duplicate, absent or in use (nvmf) |
 * | -32603 of nvmf_* | vague | create_subsystem of an existing NQN, add_host twice (nvmf) |
 * | -32603 "Device not found" of health info | absent | (states and health); its "Internal error." is io |
 */
export function classify(method: string, code: number, message: string): SpdkErrorKind {
  const exception = METHOD_CODES[method]?.[code];
  if (exception !== undefined) return exception;
  if (code === METHOD_NOT_FOUND) return "unsupported";
  if (code !== INVALID_PARAMS && code !== INTERNAL_ERROR) return ERRNO_KINDS[code] ?? "internal";
  const hint = TEXT_KINDS.find(([fragment]) => message.includes(fragment));
  if (hint !== undefined) return hint[1];
  if (method.startsWith("nvmf_")) return "vague";
  return code === INVALID_PARAMS ? "invalid" : "internal";
}

const METHOD_NOT_FOUND = -32601;
const INVALID_PARAMS = -32602;
const INTERNAL_ERROR = -32603;

const METHOD_CODES: Readonly<Record<string, Readonly<Record<number, SpdkErrorKind>>>> = {
  bdev_nvme_attach_controller: { [-17]: "conflict", [-19]: "vague" },
  bdev_nvme_get_controllers: { [-22]: "absent", [22]: "absent" },
  nvmf_get_subsystems: { [INVALID_PARAMS]: "absent" },
};

const ERRNO_KINDS: Readonly<Record<number, SpdkErrorKind>> = {
  [-1]: "not_permitted",
  [-2]: "absent",
  [-5]: "io",
  [-6]: "io",
  [-11]: "busy",
  [-12]: "no_memory",
  [-16]: "busy",
  [-17]: "exists",
  [-19]: "absent",
  [-22]: "invalid",
  [-28]: "no_space",
  [-110]: "timeout",
  [-114]: "exists",
};

/** strerror texts, and the SPDK texts that are more specific than their code. */
const TEXT_KINDS: readonly (readonly [fragment: string, kind: SpdkErrorKind])[] = [
  ["Device or resource busy", "busy"],
  ["Resource temporarily unavailable", "busy"],
  ["subsystem busy", "busy"],
  ["already being destroyed", "busy"],
  ["in another state change", "busy"],
  ["No space left on device", "no_space"],
  ["Cannot allocate memory", "no_memory"],
  ["File exists", "exists"],
  ["already exists", "exists"],
  ["No such device", "absent"],
  ["No such file or directory", "absent"],
  ["not found", "absent"],
  ["Operation not permitted", "not_permitted"],
  ["Input/output error", "io"],
  // Health info of a failed controller. nvmf_subsystem_add_host answers it without the full stop.
  ["Internal error.", "io"],
];

/** SPDK answered with an error. `spdkMessage` holds SPDK's text, for logs only. */
export class SpdkError extends Error {
  readonly method: string;
  readonly code: number;
  readonly spdkMessage: string;
  readonly kind: SpdkErrorKind;

  constructor(method: string, code: number, spdkMessage: string) {
    const kind = classify(method, code, spdkMessage);
    super(`${method} answered ${code} (${kind})`);
    this.name = "SpdkError";
    this.method = method;
    this.code = code;
    this.spdkMessage = spdkMessage;
    this.kind = kind;
  }
}

/** The request was sent and its effect is unknown: assume neither success nor failure. */
export class SpdkUnknownOutcome extends Error {
  readonly method: string;
  readonly reason: "timeout" | "aborted" | "disconnected" | "too_long";
  /**
   * Resolves with the late answer or with the loss of the connection. After a loss the request may
   * still run: its lane is released only when the target is known to have restarted
   * (docs/architecture.md#r2-unknown-outcomes).
   */
  readonly settled: Promise<Settled>;

  constructor(method: string, reason: SpdkUnknownOutcome["reason"], settled: Promise<Settled>) {
    super(`${method}: outcome unknown (${reason})`);
    this.name = "SpdkUnknownOutcome";
    this.method = method;
    this.reason = reason;
    this.settled = settled;
  }
}

/** The request was not sent. `release`: the target's release is unknown or unsupported. */
export class SpdkNotSent extends Error {
  readonly method: string;
  readonly reason: NotSent["reason"] | "release";

  constructor(method: string, reason: SpdkNotSent["reason"], options?: ErrorOptions) {
    super(`${method} was not sent (${reason})`, options);
    this.name = "SpdkNotSent";
    this.method = method;
    this.reason = reason;
  }
}
