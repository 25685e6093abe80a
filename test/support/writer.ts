// A writer over a real database, without an agent around it.
import { pino } from "pino";
import type { Decision, Mutation } from "../../src/model/admission.ts";
import { uuidV5 } from "../../src/model/identity.ts";
import { openDatabase, type Database } from "../../src/store/database.ts";
import { Fence } from "../../src/store/fence.ts";
import { acquireLease } from "../../src/store/lease.ts";
import { Rows } from "../../src/store/rows.ts";
import { registerNode } from "../../src/store/statements.ts";
import { Writer } from "../../src/store/writer.ts";
import { CLUSTER, creationRequest, diskRow, FLEET, NODE, PREFIX, VOLUME } from "./model.ts";

export const log = pino({ level: "silent" });
const policy = {
  nodeId: NODE,
  nqnPrefix: PREFIX,
  overcommit: 1,
  maxExports: 1022,
  isolation: "strict",
  zeroing: "manual",
} as const;

export type Open = AsyncDisposable & {
  readonly database: Database;
  readonly rows: Rows;
  readonly writer: Writer;
};

/** A writer of one node over a database, whose node has one UP disk. */
export async function openWriter(
  url: string,
  disk = diskRow(),
  copy: { readonly keep: () => Promise<void> } = { keep: () => Promise.resolve() },
): Promise<Open> {
  const { nodeId } = disk;
  await using stack = new AsyncDisposableStack();
  const database = stack.use(openDatabase({ url, log }));
  const rows = new Rows();
  await database.transaction((client) =>
    registerNode(client, { nodeId, fleet: FLEET, nqnPrefix: PREFIX }),
  );
  const claim = { nodeId, holder: "test", lock: "test", termMs: 60_000, atLeast: 0n };
  const taken = await acquireLease(database.pool, claim);
  if ("heldBy" in taken) throw new Error(taken.heldBy);
  const fence = new Fence();
  fence.setLease(taken.epoch, Number.POSITIVE_INFINITY);
  const writer = stack.use(
    new Writer({ database, rows, policy: { ...policy, nodeId }, fence, copy, log }),
  );
  writer.start();
  await writer.insertDisk(disk);
  const owned = stack.move();
  return { database, rows, writer, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

export function provision(
  index: number,
  change: Partial<Extract<Mutation, { kind: "provision" }>> = {},
): Mutation {
  return {
    kind: "provision",
    id: uuidV5(VOLUME, `${index}`),
    request: creationRequest({ sizeBytes: CLUSTER }),
    labels: { app: "db" },
    validateOnly: false,
    actor: "test",
    traceparent: undefined,
    ...change,
  };
}

export function rowOf(decision: Decision) {
  if (decision.kind !== "lvol" || decision.row === undefined) throw new Error("no volume");
  return decision.row;
}
