// Errors of the API: a gRPC code, a reason from a closed list, and structured details. Errors of
// the adapters (SPDK, database, kernel) are not sent to clients; only the message of a Refusal is.

/** gRPC status codes that the service answers with: those that CSI uses, and more. */
export type Code =
  | "INVALID_ARGUMENT"
  | "NOT_FOUND"
  | "ALREADY_EXISTS"
  | "FAILED_PRECONDITION"
  | "OUT_OF_RANGE"
  | "RESOURCE_EXHAUSTED"
  | "ABORTED"
  | "UNAVAILABLE"
  | "UNIMPLEMENTED"
  | "UNAUTHENTICATED"
  | "PERMISSION_DENIED"
  | "INTERNAL";

/** ErrorInfo.reason: closed, each with one code; causes and cures are in docs/errors.md. */
export const CODE_OF_REASON = {
  INVALID_FIELD: "INVALID_ARGUMENT",
  SPEC_MISMATCH: "ALREADY_EXISTS",
  ID_RETIRED: "FAILED_PRECONDITION",
  OTHER_NODE: "ALREADY_EXISTS",
  NOT_FOUND: "NOT_FOUND",
  DISK_NOT_UP: "FAILED_PRECONDITION",
  DISK_UNHEALTHY: "FAILED_PRECONDITION",
  NO_DISK_FITS: "RESOURCE_EXHAUSTED",
  NO_CAPACITY: "RESOURCE_EXHAUSTED",
  EXPORT_LIMIT: "RESOURCE_EXHAUSTED",
  HOST_LIMIT: "RESOURCE_EXHAUSTED",
  ORPHAN_EXISTS: "FAILED_PRECONDITION",
  NOT_ADOPTABLE: "FAILED_PRECONDITION",
  DISCARD_NOT_ZEROING: "FAILED_PRECONDITION",
  HAS_EVIDENCE: "FAILED_PRECONDITION",
  FREE_SPACE_NOT_ZEROED: "FAILED_PRECONDITION",
  SHRINK_REFUSED: "OUT_OF_RANGE",
  SOURCE_NOT_UP: "FAILED_PRECONDITION",
  IN_USE: "FAILED_PRECONDITION",
  HAS_CLONES: "FAILED_PRECONDITION",
  SERIAL_MISMATCH: "FAILED_PRECONDITION",
  EVIDENCE_CHANGED: "FAILED_PRECONDITION",
  CORDONED: "FAILED_PRECONDITION",
  NO_LED: "FAILED_PRECONDITION",
  NO_CERTIFICATE: "UNAUTHENTICATED",
  CERTIFICATE_INVALID: "UNAUTHENTICATED",
  UNKNOWN_CLIENT: "PERMISSION_DENIED",
  ROLE_REQUIRED: "PERMISSION_DENIED",
  EXPORT_NOT_ALLOWED: "PERMISSION_DENIED",
  TARGET_TOO_OLD: "FAILED_PRECONDITION",
  STORE_LOADING: "UNAVAILABLE",
  TARGET_DOWN: "UNAVAILABLE",
  DATABASE_DOWN: "UNAVAILABLE",
  NOT_LEASE_HOLDER: "UNAVAILABLE",
  LOCAL_COPY_STALE: "UNAVAILABLE",
  ON_HOLD: "FAILED_PRECONDITION",
  ETAG_MISMATCH: "ABORTED",
  NO_STORE: "FAILED_PRECONDITION",
  NOT_IMPLEMENTED: "UNIMPLEMENTED",
  REVISION_EXPIRED: "OUT_OF_RANGE",
  READER_TOO_SLOW: "RESOURCE_EXHAUSTED",
  OVERLOADED: "RESOURCE_EXHAUSTED",
  INTERNAL: "INTERNAL",
} as const satisfies Record<string, Code>;

export type Reason = keyof typeof CODE_OF_REASON;

/** One bad field: the proto path (`spec.size_bytes`) and what is wrong with it. */
export type FieldViolation = { readonly field: string; readonly description: string };

/** What was asked and what is left, in bytes or objects, as text for google.rpc.QuotaFailure. */
export type QuotaViolation = { readonly subject: string; readonly description: string };

export type RefusalDetails = {
  readonly metadata?: Readonly<Record<string, string>>;
  readonly fields?: readonly FieldViolation[];
  readonly quota?: readonly QuotaViolation[];
  /** google.rpc.PreconditionFailure: subject (an object's name) and the condition it fails. */
  readonly preconditions?: readonly { readonly subject: string; readonly description: string }[];
  readonly retryAfterMs?: number;
  /** Where the same reason has another code, e.g. INVALID_FIELD as OUT_OF_RANGE (over maximum). */
  readonly code?: Code;
  readonly cause?: unknown;
};

/** The refusal of a call, with a reason that a client can act on and a message for people. */
export class Refusal extends Error {
  readonly reason: Reason;
  readonly code: Code;
  readonly details: RefusalDetails;

  constructor(reason: Reason, message: string, details: RefusalDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = "Refusal";
    this.reason = reason;
    this.code = details.code ?? CODE_OF_REASON[reason];
    this.details = details;
  }
}

/** So many bad fields are named in the message; the details have more of them. */
const MAX_FIELDS_NAMED = 5;

/** One Refusal for all invalid fields of a request; `count` of them, if not all are given. */
export function invalidFields(
  fields: readonly FieldViolation[],
  count: number = fields.length,
): Refusal {
  const named = fields.slice(0, MAX_FIELDS_NAMED);
  const texts = named.map(({ field, description }) => `${field}: ${description}`);
  const message = fields.length === 0 ? "invalid request" : texts.join("; ");
  const left = count - named.length;
  const more = left > 0 ? ` (and ${left} more)` : "";
  const notGiven = count - fields.length;
  const metadata = notGiven > 0 ? { more_fields: String(notGiven) } : {};
  return new Refusal("INVALID_FIELD", message + more, { fields, metadata });
}
