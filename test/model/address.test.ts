// What is loopback: an address of this machine only, and never a name.
import { expect, it } from "vitest";
import { isLoopback } from "../../src/model/address.ts";

it.each([
  ["127.0.0.1", true],
  ["127.255.255.254", true],
  ["::1", true],
  ["0:0:0:0:0:0:0:1", true],
  ["::ffff:127.0.0.1", true],
  ["::ffff:128.0.0.1", false],
  ["128.0.0.1", false],
  ["0.0.0.0", false],
  ["::", false],
  ["127.evil.example", false],
  ["127.0.0.1.evil.example", false],
  ["127.", false],
  ["127.0.0.1 ", false],
  ["", false],
])("isLoopback(%j) is %s", (address, loopback) => {
  expect(isLoopback(address)).toBe(loopback);
});
