// Calls on volumes over gRPC, as a scheduler makes them.
import { randomUUID } from "node:crypto";
import { Provisioning, type Lvol, type LvolSpec } from "../../src/gen/storagenode/v1/lvol.ts";
import type { UpdateLvolRequest } from "../../src/gen/storagenode/v1/storage_node.ts";
import { call, type TestAgent } from "./agent.ts";

export const GIB = 1024n ** 3n;
export const HOST = "nqn.2014-08.org.nvmexpress:uuid:7c5d1e9a-0001-4000-8000-000000000001";

type Client = Pick<TestAgent, "client">;

export const WAIT = { seconds: 30n, nanos: 0 };

export function lvolSpec(change: Partial<LvolSpec> = {}): LvolSpec {
  return {
    sizeBytes: GIB,
    provisioning: Provisioning.PROVISIONING_UNSPECIFIED,
    diskId: "",
    sourceSnapshotId: "",
    allowedHostNqns: [HOST],
    allowAnyHost: false,
    qos: undefined,
    labels: {},
    ...change,
  };
}

export type ProvisionOptions = {
  readonly id?: string;
  /** False: return as soon as the intent is committed. */
  readonly wait?: boolean;
};

export async function provision(
  { client }: Client,
  change: Partial<LvolSpec> = {},
  { id = randomUUID(), wait = true }: ProvisionOptions = {},
): Promise<Lvol> {
  const waitTimeout = wait ? WAIT : undefined;
  const request = { id, spec: lvolSpec(change), waitTimeout, validateOnly: false };
  const { lvol } = await call(client, client.provisionLvol.bind(client), request);
  if (lvol === undefined) throw new Error("no volume in the answer");
  return lvol;
}

export type ChangeOptions = {
  /** False: return as soon as the intent is committed. */
  readonly wait?: boolean;
};

export async function resize(
  { client }: Client,
  lvolId: string,
  sizeBytes: bigint,
  { wait = true }: ChangeOptions = {},
): Promise<Lvol> {
  const request = { lvolId, sizeBytes, waitTimeout: wait ? WAIT : undefined };
  const { lvol } = await call(client, client.resizeLvol.bind(client), request);
  if (lvol === undefined) throw new Error("no volume in the answer");
  return lvol;
}

export async function update(
  { client }: Client,
  lvolId: string,
  change: Partial<Pick<UpdateLvolRequest, "qos" | "labels" | "setLabels" | "etag">>,
  { wait = true }: ChangeOptions = {},
): Promise<Lvol> {
  const none = { qos: undefined, labels: {}, setLabels: false, etag: "" };
  const waitTimeout = wait ? WAIT : undefined;
  const request = { ...none, ...change, lvolId, waitTimeout };
  const { lvol } = await call(client, client.updateLvol.bind(client), request);
  if (lvol === undefined) throw new Error("no volume in the answer");
  return lvol;
}

export type RemoveOptions = {
  readonly force?: boolean;
  readonly reason?: string;
  /** False: return as soon as the intent is committed. */
  readonly wait?: boolean;
};

export async function remove(
  { client }: Client,
  id: string,
  { force = false, reason = "", wait = true }: RemoveOptions = {},
): Promise<{ readonly done: boolean }> {
  return await call(client, client.delete.bind(client), {
    target: { $case: "lvolId", value: id },
    waitTimeout: wait ? WAIT : undefined,
    deferred: false,
    force,
    reason,
  });
}

/** Of every disk whose free space is not zeroed. */
export async function zeroFreeSpace({ client }: Client): Promise<void> {
  const page = { pageSize: 0, pageToken: "" };
  const { disks } = await call(client, client.listDisks.bind(client), page);
  const waitTimeout = { seconds: 10n, nanos: 0 };
  await Promise.all(
    disks
      .filter((disk) => disk.status?.lvstore?.freeSpace !== "FREE_SPACE_ZEROED")
      .map(async (disk) => {
        const request = { diskId: disk.meta?.id ?? "", waitTimeout };
        await call(client, client.zeroFreeSpace.bind(client), request);
      }),
  );
}

export async function getLvol({ client }: Client, id: string): Promise<Lvol> {
  const { lvol } = await call(client, client.getLvol.bind(client), { lvolId: id });
  if (lvol === undefined) throw new Error("no volume in the answer");
  return lvol;
}

export const idOf = (lvol: Lvol): string => lvol.meta?.id ?? "";
export const stateOf = (lvol: Lvol): string => lvol.status?.state ?? "";
