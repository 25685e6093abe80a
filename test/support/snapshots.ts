// Calls on snapshots over gRPC, as a scheduler makes them.
import { randomUUID } from "node:crypto";
import type { Snapshot } from "../../src/gen/storagenode/v1/snapshot.ts";
import { call, type TestAgent } from "./agent.ts";
import { WAIT } from "./volumes.ts";

type Client = Pick<TestAgent, "client">;

export type TakeOptions = {
  readonly id?: string;
  /** False: return as soon as the intent is committed. */
  readonly wait?: boolean;
};

export async function takeSnapshot(
  { client }: Client,
  sourceLvolId: string,
  { id = randomUUID(), wait = true }: TakeOptions = {},
): Promise<Snapshot> {
  const waitTimeout = wait ? WAIT : undefined;
  const request = { id, spec: { sourceLvolId, labels: {} }, waitTimeout };
  const { snapshot } = await call(client, client.snapshot.bind(client), request);
  if (snapshot === undefined) throw new Error("no snapshot in the answer");
  return snapshot;
}

export async function getSnapshot({ client }: Client, snapshotId: string): Promise<Snapshot> {
  const { snapshot } = await call(client, client.getSnapshot.bind(client), { snapshotId });
  if (snapshot === undefined) throw new Error("no snapshot in the answer");
  return snapshot;
}

export async function deleteSnapshot(
  { client }: Client,
  id: string,
  { deferred = false, wait = true }: { readonly deferred?: boolean; readonly wait?: boolean } = {},
): Promise<{ readonly done: boolean }> {
  return await call(client, client.delete.bind(client), {
    target: { $case: "snapshotId", value: id },
    waitTimeout: wait ? WAIT : undefined,
    deferred,
    force: false,
    reason: "",
  });
}

export const snapshotIdOf = ({ meta }: Snapshot): string => meta?.id ?? "";
