// Checks of request fields that collect every violation before the request is refused. A failed
// check still returns a value, so that the checks after it run too; the caller must call `done`,
// which throws, before it uses a value.
import { Buffer } from "node:buffer";
import type { Duration } from "../gen/google/protobuf/duration.ts";
import { invalidFields, Refusal, type FieldViolation } from "../model/errors.ts";
import { isUuid } from "../model/identity.ts";
import { isNqn } from "../model/nqn.ts";
import {
  DEFAULT_PAGE_SIZE,
  MAX_HOSTS,
  MAX_LABELS,
  MAX_LABEL_VALUE_BYTES,
  MAX_LISTED,
  MAX_PAGE_SIZE,
  MAX_QOS_LIMIT,
  MAX_TEXT_BYTES,
  MAX_WAIT_MS,
} from "../limits.ts";

/** 4 EiB. Sizes are stored as PostgreSQL bigint, which ends at 2^63 - 1. */
const MAX_SIZE_BYTES = 2n ** 62n;

const LABEL_KEY = /^([a-z0-9.-]{1,253}\/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/;

export class Fields {
  /** The first ones: a request may have a million. */
  readonly #violations: FieldViolation[] = [];
  #count = 0;
  readonly #tooLarge: FieldViolation[] = [];

  /**
   * Throws a Refusal with the first violations and the number of all; with code OUT_OF_RANGE if only sizes are too
   * large.
   */
  done(): void {
    if (this.#count > 0) {
      const told = [...this.#violations, ...this.#tooLarge];
      throw invalidFields(told, this.#count + this.#tooLarge.length);
    }
    const [first] = this.#tooLarge;
    if (first === undefined) return;
    throw new Refusal("INVALID_FIELD", `${first.field}: ${first.description}`, {
      code: "OUT_OF_RANGE",
      fields: this.#tooLarge,
    });
  }

  doneWith<T>(value: T): T {
    this.done();
    return value;
  }

  violation(field: string, description: string): undefined {
    this.#count += 1;
    if (this.#violations.length < MAX_LISTED) this.#violations.push({ field, description });
    return undefined;
  }

  present<T>(field: string, value: T | undefined): T | undefined {
    return value ?? this.violation(field, "must be set");
  }

  uuid(field: string, value: string): string {
    if (!isUuid(value)) this.violation(field, "must be a UUID in lower case, with dashes");
    return value;
  }

  optionalUuid(field: string, value: string): string | undefined {
    return value === "" ? undefined : this.uuid(field, value);
  }

  /**
   * A text of up to maxBytes that PostgreSQL can store: without NUL and without half of a surrogate pair.
   */
  text(field: string, value: string, maxBytes: number = MAX_TEXT_BYTES): string {
    const bytes = Buffer.byteLength(value);
    if (bytes > maxBytes) this.violation(field, `has ${bytes} bytes, the limit is ${maxBytes}`);
    else if (value.includes("\0")) this.violation(field, "must not contain NUL");
    else if (!value.isWellFormed()) this.violation(field, "must be well-formed Unicode");
    return value;
  }

  requiredText(field: string, value: string): string {
    if (value === "") this.violation(field, "must be set");
    return this.text(field, value);
  }

  /** Why an operator does something: without the blanks around it. */
  reason(field: string, value: string): string {
    return this.requiredText(field, value.trim());
  }

  nqn(field: string, value: string): string {
    if (!isNqn(value)) {
      this.violation(field, "must be an NVMe qualified name, such as nqn.2014-08.org.example:host");
      return value;
    }
    return this.text(field, value);
  }

  optionalNqn(field: string, value: string): string | undefined {
    return value === "" ? undefined : this.nqn(field, value);
  }

  /** Returns the NQNs sorted and without duplicates: their order has no meaning. */
  hosts(field: string, values: readonly string[]): readonly string[] {
    if (values.length > MAX_HOSTS)
      this.violation(field, `has ${values.length} hosts, the limit is ${MAX_HOSTS}`);
    const checked = values.slice(0, MAX_HOSTS);
    for (const [index, value] of checked.entries()) this.nqn(`${field}[${index}]`, value);
    return [...new Set(values)].toSorted();
  }

  size(field: string, value: bigint): bigint {
    if (value === 0n) this.violation(field, "must be at least 1 byte");
    else if (value > MAX_SIZE_BYTES) {
      this.#tooLarge.push({
        field,
        description: `${value} bytes exceed the limit of ${MAX_SIZE_BYTES} bytes`,
      });
    }
    return value;
  }

  limit(field: string, value: bigint): void {
    if (value > BigInt(MAX_QOS_LIMIT)) this.violation(field, `must be at most ${MAX_QOS_LIMIT}`);
  }

  /** Refuses enum numbers that this version does not know. */
  known<T extends string>(field: string, value: T): T {
    if (value === "UNRECOGNIZED")
      this.violation(field, "has a number that this version of the agent does not know");
    return value;
  }

  labels(
    field: string,
    labels: Readonly<Record<string, string>>,
  ): Readonly<Record<string, string>> {
    const entries = Object.entries(labels);
    if (entries.length > MAX_LABELS)
      this.violation(field, `has ${entries.length} labels, the limit is ${MAX_LABELS}`);
    for (const [key, value] of entries.slice(0, MAX_LABELS)) {
      if (!LABEL_KEY.test(key))
        this.violation(`${field}["${key}"]`, "is not a label key of the form [prefix/]name");
      this.text(`${field}["${key}"]`, value, MAX_LABEL_VALUE_BYTES);
    }
    return labels;
  }

  /** Milliseconds, rounded up; 0 (do not wait) if unset. */
  waitMs(field: string, value: Duration | undefined): number {
    return this.durationMs(field, value, { min: 0, max: MAX_WAIT_MS, unset: 0 });
  }

  /** Milliseconds, rounded up; `unset` if there is none. */
  durationMs(
    field: string,
    value: Duration | undefined,
    { min, max, unset }: { readonly min: number; readonly max: number; readonly unset: number },
  ): number {
    if (value === undefined) return unset;
    const { seconds, nanos } = value;
    const milliseconds = Number(seconds) * 1_000 + nanos / 1e6;
    // google.protobuf.Duration: nanos has the sign of seconds and is less than one second.
    const malformed = nanos < 0 || nanos > 999_999_999;
    if (malformed || milliseconds < min || milliseconds > max) {
      const least = min === 0 ? "0" : `${min / 1_000} seconds`;
      this.violation(field, `must be between ${least} and ${max / 60_000} minutes`);
    }
    return Math.ceil(milliseconds);
  }

  /** isKey: whether a page can start after it; the ids of rows are UUIDs. */
  paging(
    message: { readonly pageSize: number; readonly pageToken: string },
    isKey: (after: string) => boolean = isUuid,
  ): { readonly pageSize: number; readonly after: string | undefined } {
    const { pageSize: requested, pageToken: token } = message;
    if (requested < 0) this.violation("page_size", "must not be negative");
    const pageSize = requested === 0 ? DEFAULT_PAGE_SIZE : Math.min(requested, MAX_PAGE_SIZE);
    if (token === "") return { pageSize, after: undefined };
    const after = Buffer.from(token, "base64url").toString("utf8");
    if (!isKey(after)) this.violation("page_token", "is not a next_page_token of an earlier page");
    return { pageSize, after };
  }
}

/** The token of the page that starts after a key; opaque to clients. */
export function pageToken(last: string): string {
  return Buffer.from(last).toString("base64url");
}
