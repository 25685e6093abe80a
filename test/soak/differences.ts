// Compares the volumes according to the answers to callers, the rows in the database and the
// objects on the target. Returns one line per difference.
import { Client } from "pg";
import { z } from "zod";
import type { SpdkClient } from "../../src/spdk/client.ts";
import type { Volume } from "./scheduler.ts";

const row = z.object({
  id: z.string(),
  lvol_uuid: z.string().nullable(),
  exported: z.boolean(),
  hosts: z.array(z.string()),
  delete_requested_time: z.date().nullable(),
  delete_time: z.date().nullable(),
});

export async function differences(sources: {
  readonly spdk: SpdkClient;
  readonly databaseUrl: string;
  readonly wanted: readonly Volume[];
}): Promise<readonly string[]> {
  const { spdk, databaseUrl, wanted } = sources;
  const [rows, lvols, subsystems] = await Promise.all([
    readRows(databaseUrl),
    spdk.bdevLvolGetLvols(),
    spdk.nvmfGetSubsystems(),
  ]);
  const found: string[] = [];
  const differs = (what: string, one: unknown, other: unknown) => {
    if (JSON.stringify(one) !== JSON.stringify(other)) {
      found.push(`${what}: ${JSON.stringify(one)} and ${JSON.stringify(other)}`);
    }
  };
  const ids = wanted.map(({ id }) => id).toSorted();
  const alive = rows.filter((one) => one.delete_requested_time === null);
  const halfDeleted = rows.filter((one) => one.delete_requested_time !== null && !one.delete_time);
  const exported = subsystems.flatMap(({ nqn, hosts, namespaces }) =>
    namespaces.map(({ uuid }) => ({ nqn, uuid, hosts: hosts.toSorted() })),
  );
  differs("ids answered and in rows", ids, alive.map(({ id }) => id).toSorted());
  differs("ids answered and on the target", ids, lvols.map(({ name }) => name).toSorted());
  differs("ids answered and exported", ids, exported.map(({ uuid }) => uuid ?? "").toSorted());
  const empty = subsystems.filter(
    ({ nqn, subtype, namespaces }) =>
      subtype === "NVMe" && namespaces.length === 0 && !nqn.includes(":owner:"),
  );
  differs(
    "subsystems without a volume",
    [],
    empty.map(({ nqn }) => nqn),
  );
  differs(
    "rows half deleted",
    [],
    halfDeleted.map(({ id }) => id),
  );
  for (const { id, lvolUuid, hosts } of wanted) {
    const one = alive.find((row) => row.id === id);
    differs(`lvol of ${id}, answered and in its row`, lvolUuid, one?.lvol_uuid);
    const lvol = lvols.find(({ name }) => name === id);
    differs(`lvol of ${id}, answered and on the target`, lvolUuid, lvol?.uuid);
    const names = [...hosts].toSorted();
    differs(`hosts of ${id}, answered and in its row`, names, one?.hosts.toSorted());
    const observed = exported.find(({ uuid }) => uuid === id);
    differs(`hosts of ${id}, answered and on the target`, names, observed?.hosts);
  }
  return found;
}

async function readRows(url: string): Promise<readonly z.infer<typeof row>[]> {
  const client = new Client({ connectionString: url });
  client.on("error", () => {});
  await client.connect();
  try {
    return z.array(row).parse((await client.query("select * from lvol")).rows);
  } finally {
    await client.end();
  }
}
