// `storage-node rebuild`: recreates database rows from the lvstores and lvols on the target.
// Without --apply it never writes a row, and only prints what it would write.
import { parseArguments } from "./arguments.ts";
import { pino } from "pino";
import { EXIT_FAILED, EXIT_USAGE, messageOf, type Io } from "./io.ts";
import { EXIT_CONFIG, readConfigOrFaults, type Config } from "../config.ts";
import { LocalMemory, type Remembered } from "../local/local-memory.ts";
import { spdkClient } from "../spdk/client.ts";
import { SpdkConnection } from "../spdk/connection.ts";
import { openDatabase, type Database } from "../store/database.ts";
import { MIGRATIONS_DIR, schemaState } from "../store/migrate.ts";
import { loadNode, registerNode } from "../store/statements.ts";
import { findTombstones, isOf } from "../store/tombstones.ts";
import { openKernel } from "../sysfs/kernel.ts";
import { applyRebuild, refuseIfLed, type Written } from "../rebuild/apply.ts";
import { attachDisks, lookAtTarget, unknownLvols, type Found } from "../rebuild/found.ts";
import { comparedText } from "../rebuild/hosts.ts";
import { isOlder } from "../rebuild/older-rows.ts";
import { planRebuild, type RebuildContext, type RebuildPlan } from "../rebuild/plan.ts";

const USAGE = `usage: storage-node rebuild [--attach] [--keep-listed] [--apply]

  Creates database rows for the lvstores and volumes on the target that the database does not have.
  Without --apply it only prints what it would write. The new rows have no hosts: their exports keep
  their hosts until AllowHost or RevokeHost sets them.

  Rows of a database that is older than what the node remembers may have outdated facts: after --apply
  none of their hosts may connect before it is confirmed ("storage-node confirm-hosts", AllowHost), the
  free space of every disk counts as not zeroed, and no lvol is created for a row that never had one.

  --attach        first attach the disks that serve would attach
  --keep-listed   confirm the hosts that both the row and the target list. Only if the target did not
                  restart, and got no saved configuration, since the newer database was lost: a host
                  that was revoked is not listed then
  --apply         write the rows, and end the node's hold`;

const CONNECT_MS = 5_000;

export async function rebuild(args: readonly string[], io: Io): Promise<number> {
  let flags: { attach?: boolean; "keep-listed"?: boolean; apply?: boolean; help?: boolean };
  try {
    const options = {
      attach: { type: "boolean" },
      "keep-listed": { type: "boolean" },
      apply: { type: "boolean" },
      help: { type: "boolean" },
    } as const;
    flags = parseArguments({ args: [...args], allowPositionals: false, options }).values;
  } catch (error) {
    io.stderr(`${messageOf(error)}\n\n${USAGE}`);
    return EXIT_USAGE;
  }
  if (flags.help === true) {
    io.stdout(USAGE);
    return 0;
  }
  const config = readConfigOrFaults(io);
  if (config === undefined) return EXIT_CONFIG;
  try {
    const { attach = false, apply = false, "keep-listed": keepListed = false } = flags;
    await run(config, { attach, apply, keepListed, io });
    return 0;
  } catch (error) {
    io.stderr(`storage-node rebuild: ${messageOf(error)}`);
    return EXIT_FAILED;
  }
}

type Asked = {
  readonly attach: boolean;
  readonly apply: boolean;
  readonly keepListed: boolean;
  readonly io: Io;
};

async function run(config: Config, { attach, apply, keepListed, io }: Asked): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const log = pino({ level: "silent" });
  const database = stack.use(openDatabase({ url: config.databaseUrl, log }));
  const remembered = new LocalMemory(config.stateDir).read();
  const known = await readKnown(database, config, remembered);
  const connection = stack.use(
    new SpdkConnection({
      path: config.spdkSocket,
      mayMutate: (method) => attach && method === "bdev_nvme_attach_controller",
    }),
  );
  await connected(connection, config.spdkSocket);
  const spdk = spdkClient(connection);
  if (attach) {
    await database.transaction(async (client) => await refuseIfLed(client, config.nodeId));
    const refused = await attachDisks(spdk, openKernel(config.root), config);
    for (const refusal of refused) io.stdout(`not attached  ${refusal}`);
  }
  const found = await lookAtTarget(spdk, config);
  const deletedLvols = await readDeleted(database, found);
  const plan = planRebuild(found, { ...config, ...known, deletedLvols, now: new Date() });
  show(plan, keepListed, io);
  if (!apply) {
    io.stdout("nothing was written; run it again with --apply to write this and end the hold");
    return;
  }
  const written = await database.transaction(async (client) => {
    await registerNode(client, config);
    await refuseIfLed(client, config.nodeId);
    return await applyRebuild(client, config.nodeId, { plan, remembered, keepListed });
  });
  for (const line of writtenLines(written)) io.stdout(line);
}

function writtenLines({ disks, lvols, snapshots, confirmed, older }: Written): readonly string[] {
  const what = `${disks} disks, ${lvols} volumes, ${snapshots} snapshots`;
  const lines = [`written: ${what}; the hold is ended`];
  if (confirmed > 0) lines.push(`${confirmed} hosts are confirmed, as the target lists them`);
  if (older === undefined || older.volumes + older.stores === 0) return lines;
  const { unconfirmedHosts, neverSeen, stores } = older;
  lines.push(
    `the rows that were there are older than what this node remembers: ` +
      `${unconfirmedHosts - confirmed} hosts may not connect before they are confirmed (see ` +
      `"storage-node confirm-hosts --help"), and ${stores} disks take new volumes only after ` +
      `ZeroFreeSpace`,
  );
  if (neverSeen > 0) {
    lines.push(`${neverSeen} volumes had no lvol then: if none is found, they are FAILED`);
  }
  return lines;
}

async function connected(connection: SpdkConnection, path: string): Promise<void> {
  if (connection.connected) return;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const fail = () => {
    const fault = connection.fault ?? "no answer";
    reject(new Error(`no connection to ${path} within ${CONNECT_MS / 1_000} s: ${fault}`));
  };
  const timer = setTimeout(fail, CONNECT_MS);
  connection.onConnected(resolve);
  await promise.finally(() => clearTimeout(timer));
}

async function readKnown(
  database: Database,
  { nodeId }: Config,
  remembered: Remembered | undefined,
): Promise<Pick<RebuildContext, "knownStores" | "knownLvols" | "knownSnapshots" | "older">> {
  return await database.transaction(async (client) => {
    const schema = await schemaState(client, MIGRATIONS_DIR);
    if (schema.kind !== "current")
      throw new Error(`the schema is ${schema.kind}: run "storage-node migrate"`);
    const exists = await client.query(`select from node where node_id = $1`, [nodeId]);
    const older = await isOlder(client, nodeId, remembered);
    if (exists.rows.length === 0) {
      const knownLvols = new Map();
      return { knownStores: new Set(), knownLvols, knownSnapshots: new Map(), older };
    }
    const { disks, lvols, snapshots } = await loadNode(client, nodeId);
    const withStore = disks.filter(({ lvsUuid }) => lvsUuid !== undefined);
    return {
      knownStores: new Set(withStore.map(({ id }) => id)),
      knownLvols: new Map(lvols.map((row) => [row.id, row])),
      knownSnapshots: new Map(snapshots.map((row) => [row.id, row])),
      older,
    };
  });
}

/** Uuids of the lvols that belong to deleted volumes. */
async function readDeleted(database: Database, found: Found): Promise<ReadonlySet<string>> {
  const lvols = unknownLvols(found);
  const tombstones = await database.transaction((client) => findTombstones(client, lvols));
  const deleted = lvols.filter((lvol) => tombstones.some((tombstone) => isOf(tombstone, lvol)));
  return new Set(deleted.map(({ uuid }) => uuid));
}

function show(plan: RebuildPlan, keepListed: boolean, io: Io): void {
  const { disks, lvols, snapshots, grown, hosts, left } = plan;
  for (const disk of disks) io.stdout(`disk    ${disk.id}  ${disk.serial}  store ${disk.lvsUuid}`);
  for (const lvol of lvols) {
    const kind = lvol.thin ? "thin" : "thick";
    io.stdout(
      `volume  ${lvol.id}  ${lvol.sizeBytes} bytes ${kind}  lvol ${lvol.lvolUuid}  ${lvol.nqn}`,
    );
  }
  for (const { id, observedSizeBytes, lvolUuid, parentId } of snapshots) {
    const parent = parentId === undefined ? "" : `  clone of ${parentId}`;
    io.stdout(`snapshot  ${id}  ${observedSizeBytes} bytes  lvol ${lvolUuid}${parent}`);
  }
  for (const { id, sizeBytes } of grown) io.stdout(`grown   ${id}  ${sizeBytes} bytes`);
  for (const compared of hosts) io.stdout(comparedText(compared, keepListed));
  for (const one of left) io.stdout(`left    ${one}`);
}
