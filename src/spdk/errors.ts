// What SPDK's errors mean, in one place. Nothing here decides that something exists or is gone:
// codes are shared by unrelated causes, so loops settle that by reading back (CONTRACT 0.10).

import type { NotSent, Settled } from "./outcome.ts";

/**
 * A hint for back-off, reports and the choice of what to read back. `vague` says that the method
 * answers this way for several causes, being already done among them.
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
 * | code | kind | where (CONTRACT section; VERSIONS section 3 for older releases) |
 * | --- | --- | --- |
 * | -1 | not_permitted | create_lvstore on a bdev in use, its own repeat included (5) |
 * | -2 | absent | a file or store not found; 24.01: create behind a detach |
 * | -5, -6 | io | attach refused; a path that does not match (4) |
 * | -11, -16 | busy | |
 * | -12 | no_memory | |
 * | -17 | exists | names of lvols and stores (5) |
 * | -17 of attach | conflict | the address is attached under another name (4) |
 * | -19 | absent | bdev, lvol, store, transport; of attach: any cause whatever, so vague (4) |
 * | -22 | invalid | names, clusters, QoS without limits |
 * | -22, 22 of get_controllers | absent | no controller of that name (4; 22 before 26.09) |
 * | -28 | no_space | |
 * | -110 | timeout | a bdev that did not come; detach on 25.05 (VERSIONS 1) |
 * | -114 | exists | attach: a controller of that name (4) |
 * | -32601 | unsupported | the release lacks the method |
 * | -32602, -32603 with an errno's text | by that errno | late part of lvol and store calls (5) |
 * | -32602 of nvmf_get_subsystems | absent | its one parameter is a string (7) |
 * | -32602 of other nvmf_* | vague | bad, duplicate, absent and taken alike (7) |
 * | -32603 of nvmf_* | vague | create_subsystem of an existing NQN, add_host twice (7) |
 * | -32603 "Device not found" of health info | absent | (4); its "Internal error." is io |
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

/** strerror texts, and the few texts of SPDK's own that tell more than their code. */
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
  // Health info of a failed controller; nvmf_subsystem_add_host has no full stop there.
  ["Internal error.", "io"],
];

/** SPDK answered with an error. Its text stays in `spdkMessage`, for logs only. */
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

/** The request was sent and its effect is not known. Nothing may be concluded from it. */
export class SpdkUnknownOutcome extends Error {
  readonly method: string;
  readonly reason: "timeout" | "aborted" | "disconnected";
  /**
   * Resolves with the late answer, or with the loss of the connection. After a loss the request may
   * still run: the lane opens only when the target is known to have restarted (DESIGN 3.2).
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

/** Nothing was sent, so nothing happened. `release`: the target's release is unknown or refused. */
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
