// Names as Node prints them: what an attacker puts into one name never becomes another.
import { expect, it } from "vitest";
import { namesOf } from "../../src/access/certificate.ts";

it.each([
  [undefined, []],
  ["DNS:a.example, URI:spiffe://x/y, IP Address:1.2.3.4", ["DNS:a.example", "URI:spiffe://x/y"]],
  // Node quotes what has a comma, a quote or a control character.
  ['DNS:"a.example, DNS:b.example"', ["DNS:a.example, DNS:b.example"]],
  ['URI:"x\\u0000y", DNS:c', ["URI:x\0y", "DNS:c"]],
  ['DirName:"CN = x, DNS:b", DNS:c', ["DNS:c"]],
  ["othername:<unsupported>, DNS:c", ["DNS:c"]],
])("%j has the names %j", (subjectAltName, names) => {
  expect(namesOf({ subjectAltName })).toEqual(names);
});
