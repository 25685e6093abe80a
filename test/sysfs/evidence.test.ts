import fc from "fast-check";
import { expect, test } from "vitest";
import {
  blank,
  EVIDENCE_KINDS,
  fingerprint,
  sortedEvidence,
  type Evidence,
} from "../../src/model/evidence.ts";

const evidence = fc.array(
  fc.record({
    kind: fc.constantFrom(...EVIDENCE_KINDS),
    subject: fc.string(),
    detail: fc.string(),
  }),
  { maxLength: 6 },
);

test("a fingerprint does not depend on order or repetition", () => {
  fc.assert(
    fc.property(evidence, fc.integer(), (items, seed) => {
      const turned = items.toSorted((a, b) => ((a.detail.length * seed) % 7) - b.detail.length);
      expect(fingerprint([...turned, ...items])).toBe(fingerprint(items));
    }),
  );
});

test("a fingerprint changes with every fact", () => {
  fc.assert(
    fc.property(evidence, evidence, (first, second) => {
      const same = JSON.stringify(sortedEvidence(first)) === JSON.stringify(sortedEvidence(second));
      expect(fingerprint(first) === fingerprint(second)).toBe(same);
    }),
  );
});

test("a fingerprint depends on the boundaries between fields", () => {
  const item = (subject: string, detail: string): Evidence => ({ kind: "SWAP", subject, detail });
  expect(fingerprint([item("a", "bc")])).not.toBe(fingerprint([item("ab", "c")]));
  expect(fingerprint([item("a", "b"), item("c", "d")])).not.toBe(fingerprint([item("a", "b")]));
});

test("the fingerprint of no evidence never changes, because admissions are stored", () => {
  expect(fingerprint([])).toBe("4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945");
});

test("blank is true only for no evidence", () => {
  expect(blank([])).toBe(true);
  for (const kind of EVIDENCE_KINDS) expect(blank([{ kind, subject: "", detail: "" }])).toBe(false);
});
