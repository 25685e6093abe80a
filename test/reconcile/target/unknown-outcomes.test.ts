// Which later answers show that a change whose own answer was lost has ended.
import { expect, it } from "vitest";
import { UnknownOutcomes } from "../../../src/reconcile/target/unknown-outcomes.ts";

const NEVER = new Promise<void>(() => {});

function outcomes() {
  const ended: string[] = [];
  let connectionNumber = 1;
  const unknown = new UnknownOutcomes({
    connectionNumber: () => connectionNumber,
    onEnd: (id, of) => ended.push(`${of} of ${id}`),
  });
  return { unknown, ended, reconnect: () => (connectionNumber += 1) };
}

it("a later answer ends those of the same subsystem and the same connection only", () => {
  const { unknown, ended, reconnect } = outcomes();
  void unknown.add("a", "subsystem", "on connection 1", NEVER);
  reconnect();
  void unknown.add("a", "subsystem", "on connection 2", NEVER);
  void unknown.add("a", "lvol", "bdev_lvol_delete", NEVER);
  void unknown.add("b", "subsystem", "of another volume", NEVER);
  unknown.answeredLater("a");
  expect(unknown.list().map(({ method }) => method)).toEqual([
    "on connection 1",
    "bdev_lvol_delete",
    "of another volume",
  ]);
  expect(ended).toEqual([]);
});

it("its own end resolves what waits for it, and says so once nothing of the subject is left", async () => {
  const { unknown, ended } = outcomes();
  const settled = Promise.withResolvers<void>();
  const first = unknown.add("a", "subsystem", "first", settled.promise);
  const second = unknown.add("a", "subsystem", "second", NEVER);
  settled.resolve();
  await first;
  expect(unknown.of("a", "subsystem")?.method).toBe("second");
  expect(ended).toEqual([]);
  expect(unknown.resolve("a")).toEqual(["second"]);
  await second;
  expect(ended).toEqual(["subsystem of a"]);
  expect(unknown.of("a")).toBeUndefined();
});
