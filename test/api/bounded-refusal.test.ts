// Every refusal fits into the trailers that clients take, and says what it leaves out.
import { status } from "@grpc/grpc-js";
import fc from "fast-check";
import { pino } from "pino";
import { describe, expect, it } from "vitest";
import { statusOf } from "../../src/api/status.ts";
import { BadRequest, ErrorInfo } from "../../src/gen/google/rpc/error_details.ts";
import { Status } from "../../src/gen/google/rpc/status.ts";
import { cutText } from "../../src/cut-text.ts";
import { invalidFields, Refusal } from "../../src/model/errors.ts";

const log = pino({ level: "silent" });

/** The trailers of a refusal as HTTP/2 sends them: names, values, and 32 bytes for each. */
function trailers(refusal: Refusal) {
  const { code, details, metadata } = statusOf(refusal, { method: "Test", log });
  const sent = { "grpc-status": String(code), "grpc-message": encodeURI(details) };
  const [binary] = metadata.get("grpc-status-details-bin");
  if (!Buffer.isBuffer(binary)) throw new Error("no details");
  const all = { ...sent, "grpc-status-details-bin": binary.toString("base64") };
  const bytes = Object.entries(all).reduce((sum, [name, text]) => {
    return sum + name.length + text.length + 32;
  }, 0);
  const answer = Status.decode(binary);
  const detail = (name: string) =>
    answer.details.find(({ typeUrl }) => typeUrl.endsWith(name))?.value ?? new Uint8Array();
  const { metadata: told } = ErrorInfo.decode(detail("ErrorInfo"));
  const { fieldViolations } = BadRequest.decode(detail("BadRequest"));
  return { bytes, details, told, fields: fieldViolations };
}

/** Any text, also with halves of surrogate pairs, and long ones. */
const anyText = fc
  .tuple(fc.array(fc.integer({ min: 0, max: 0xffff })), fc.constantFrom(1, 10, 10_000))
  .map(([units, times]) => String.fromCharCode(...units).repeat(times));

const pair = { field: anyText, description: anyText };
const violations = fc.array(fc.record(pair), { maxLength: 200 });
const objects = fc.array(fc.record({ subject: anyText, description: anyText }), { maxLength: 200 });

describe("a refusal", () => {
  it("of any length fits into 8 KiB of trailers", () => {
    fc.assert(
      fc.property(anyText, violations, objects, anyText, (message, fields, found, hosts) => {
        const details = { fields, preconditions: found, quota: found, metadata: { hosts } };
        const { bytes } = trailers(new Refusal("IN_USE", message, details));
        expect(bytes).toBeLessThan(8_192 - 300);
      }),
      { numRuns: 200 },
    );
  });

  it("names the first of 1,000 bad fields and counts the others", () => {
    const bad = Array.from({ length: 1_000 }, (_, index) => ({
      field: `spec.allowed_host_nqns[${index}]`,
      description: "must be an NVMe qualified name",
    }));
    const { details, told, fields } = trailers(invalidFields(bad));
    expect(fields).toEqual(bad.slice(0, 20));
    expect(told).toEqual({ more_fields: "980" });
    expect(details).toContain("(and 995 more)");
  });

  it("echoes long text of the caller in part, and says how long it is", () => {
    const { details, fields } = trailers(
      invalidFields([{ field: `labels["${"k".repeat(1_000_000)}"]`, description: "is no key" }]),
    );
    expect(details).toMatch(/^labels\["k+… \(\d+ more bytes\)$/);
    expect(fields[0]?.field).toMatch(/^labels\["k+… \(\d+ more bytes\)$/);
  });

  it("that is short is sent as it is", () => {
    const fields = [{ field: "id", description: "must be set" }];
    const refusal = new Refusal("INVALID_FIELD", "id: must be set", { fields });
    expect(trailers(refusal)).toMatchObject({ details: "id: must be set", told: {}, fields });
    expect(statusOf(refusal, { method: "Test", log }).code).toBe(status.INVALID_ARGUMENT);
  });
});

describe("a text that is cut", () => {
  it("is well-formed and starts as it did, whatever it has", () => {
    fc.assert(
      fc.property(anyText, fc.integer({ min: 0, max: 300 }), (text, limit) => {
        const cut = cutText(text, limit);
        expect(cut.isWellFormed()).toBe(true);
        const [kept = ""] = cut.split(/… \(\d+ more bytes\)$/);
        expect(text.toWellFormed().startsWith(kept)).toBe(true);
        const fits = Buffer.byteLength(text) <= limit;
        expect(Buffer.byteLength(kept) <= limit || fits).toBe(true);
        expect(cut === text.toWellFormed()).toBe(fits);
      }),
    );
  });
});
