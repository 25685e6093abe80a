// Names that are derived from ids.
import { describe, expect, it } from "vitest";
import { exportSerial } from "../../src/model/identity.ts";

describe("the serial number of an export", () => {
  it("tells ids apart that differ in their last digits only, in the 20 characters that NVMe has", () => {
    const ids = Array.from({ length: 10_000 }, (_, index) => {
      return `11111111-2222-4333-8444-${index.toString(16).padStart(12, "0")}`;
    });
    const serials = new Set(ids.map(exportSerial));
    expect(serials.size).toBe(ids.length);
    expect([...serials].every((serial) => /^[0-9a-f]{20}$/.test(serial))).toBe(true);
  });
});
