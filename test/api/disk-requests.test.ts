import { expect, it } from "vitest";
import { admitDisk } from "../../src/api/disk-requests.ts";

it("AdmitDisk by address takes no word for what nobody has seen", () => {
  const request = { diskId: "", serial: "", address: "0000:01:00.0", waitTimeout: undefined };
  const said = { evidenceFingerprint: "00", discardZeroes: true };
  const unsaid = { evidenceFingerprint: "", discardZeroes: false };
  expect(() => admitDisk({ ...request, ...said })).toThrow(
    /evidence_fingerprint: must not .*discard_zeroes: must not/,
  );
  expect(admitDisk({ ...request, ...unsaid })).toMatchObject({ address: "0000:01:00.0" });
});
