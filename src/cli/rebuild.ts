// `storage-node rebuild`: recreates database rows from the lvstores and lvols on the target.
// Without --apply it never writes a row, and only prints what it would write.
import { parseArguments } from "./arguments.ts";
import { pino } from "pino";
import { EXIT_FAILED, EXIT_USAGE, messageOf, type Io } from "./io.ts";
import { EXIT_CONFIG, readConfigOrFaults, type Config } from "../config.ts";
import { LocalMemory, type Remembered } from "../local/local-memory.ts";
import type { DiskRow } from "../model/disk.ts";
import { spdkClient, type SpdkClient } from "../spdk/client.ts";
import { SpdkConnection } from "../spdk/connection.ts";
import { openDatabase, type Database } from "../store/database.ts";
import { MIGRATIONS_DIR, schemaState } from "../store/migrate.ts";
import { loadNode, registerNode } from "../store/statements.ts";
import { findTombstones, isOf } from "../store/tombstones.ts";
import { openKernel } from "../sysfs/kernel.ts";
import { listNvme } from "../sysfs/nvme.ts";
import { applyRebuild, refuseIfLed, type Written } from "../rebuild/apply.ts";
import {
  attachDisks,
  lookAtTarget,
  storesLoaded,
  unknownLvols,
  type Found,
} from "../rebuild/found.ts";
import { comparedText } from "../rebuild/hosts.ts";
import { isOlder } from "../rebuild/older-rows.ts";
import { planRebuild, type RebuildContext, type RebuildPlan } from "../rebuild/plan.ts";
import { CURE, NotRead, reckon, unreadDisks, unreadText } from "../rebuild/unread.ts";

const USAGE = `usage: storage-node rebuild [--attach] [--without DISK]... [--keep-listed] [--apply]

  Creates database rows for the lvstores and volumes on the target that the database does not have.
  Without --apply it only prints what it would write. The new rows have no hosts: their exports keep
  their hosts until AllowHost or RevokeHost sets them.

  It waits until the target has loaded the lvstores that it is loading. What was not read is not absent:
  --apply is refused while a disk is not attached that is configured, on vfio-pci or has a row with an
  lvstore, or while that lvstore is not loaded.

  Rows of a database that is older than what the node remembers may have outdated facts: after --apply
  none of their hosts may connect before it is confirmed ("storage-node confirm-hosts", AllowHost), the
  free space of every disk counts as not zeroed, and no lvol is created for a row that never had one.

  --attach        first attach the disks that serve would attach
  --without DISK  go on without a disk that is lost, by its id, serial or address: volumes on it that the
                  database does not have get no rows, and if it comes back, its lvstore is FOREIGN unless
                  its row is there. Several times for several disks
  --keep-listed   confirm the hosts that both the row and the target list. Only if the target did not
                  restart, and got no saved configuration, since the newer database was lost: a host
                  that was revoked is not listed then
  --apply         write the rows, and end the node's hold`;

const CONNECT_MS = 5_000;

/** A wait that is longer is said. */
const TELL_MS = 1_000;

export async function rebuild(args: readonly string[], io: Io): Promise<number> {
  let flags: Flags;
  try {
    const options = {
      attach: { type: "boolean" },
      without: { type: "string", multiple: true },
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
    await run(config, { attach, apply, without: flags.without ?? [], keepListed, io });
    return 0;
  } catch (error) {
    io.stderr(`storage-node rebuild: ${messageOf(error)}`);
    return EXIT_FAILED;
  }
}

type Flags = {
  attach?: boolean;
  without?: string[];
  "keep-listed"?: boolean;
  apply?: boolean;
  help?: boolean;
};

type Asked = {
  readonly attach: boolean;
  readonly without: readonly string[];
  readonly apply: boolean;
  readonly keepListed: boolean;
  readonly io: Io;
};

async function run(config: Config, asked: Asked): Promise<void> {
  const { attach, apply, without, keepListed, io } = asked;
  await using stack = new AsyncDisposableStack();
  const log = pino({ level: "silent" });
  const database = stack.use(openDatabase({ url: config.databaseUrl, log }));
  const remembered = new LocalMemory(config.stateDir).read();
  const { rows, ...known } = await readKnown(database, config, remembered);
  const connection = stack.use(
    new SpdkConnection({
      path: config.spdkSocket,
      mayMutate: (method) => attach && method === "bdev_nvme_attach_controller",
    }),
  );
  await connected(connection, config.spdkSocket);
  const spdk = spdkClient(connection);
  const kernel = openKernel(config.root);
  if (attach || apply) {
    await database.transaction(async (client) => await refuseIfLed(client, config.nodeId));
  }
  if (attach) {
    const refused = await attachDisks(spdk, kernel, config);
    for (const refusal of refused) io.stdout(`not attached  ${refusal}`);
  }
  const found = await look(connection, spdk, { config, io });
  const { functions } = await listNvme(kernel);
  const expected = { rows, fabricDisks: config.fabricDisks, functions };
  const { leftOut, unread } = reckon(unreadDisks(expected, found), without);
  const deletedLvols = await readDeleted(database, found);
  const plan = planRebuild(found, { ...config, ...known, deletedLvols, now: new Date() });
  show(plan, keepListed, io);
  for (const disk of leftOut) io.stdout(`left out  ${unreadText(disk)}`);
  for (const disk of unread) io.stdout(`not read  ${unreadText(disk)}`);
  if (!apply) {
    const next =
      unread.length === 0
        ? "run it again with --apply to write this and end the hold"
        : `--apply is refused while disks are not read: ${CURE}`;
    io.stdout(`nothing was written; ${next}`);
    return;
  }
  if (unread.length > 0) throw new NotRead(unread);
  const written = await database.transaction(async (client) => {
    await registerNode(client, config);
    await refuseIfLed(client, config.nodeId);
    return await applyRebuild(client, config.nodeId, { plan, remembered, keepListed });
  });
  for (const line of writtenLines(written)) io.stdout(line);
}

/** All of it is of one process: another one would have to load the stores again. */
async function look(
  connection: SpdkConnection,
  spdk: SpdkClient,
  { config, io }: { readonly config: Pick<Config, "fabricDisks">; readonly io: Io },
): Promise<Found> {
  const { connectionNumber } = connection;
  const told = setTimeout(() => io.stdout("the target loads lvstores: waiting for it"), TELL_MS);
  await storesLoaded(spdk).finally(() => clearTimeout(told));
  const found = await lookAtTarget(spdk, config);
  if (connection.connectionNumber === connectionNumber) return found;
  throw new Error("the target was restarted while it was read: run it again");
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

type Known = Pick<RebuildContext, "knownStores" | "knownLvols" | "knownSnapshots" | "older"> & {
  readonly rows: readonly DiskRow[];
};

async function readKnown(
  database: Database,
  { nodeId }: Config,
  remembered: Remembered | undefined,
): Promise<Known> {
  return await database.transaction(async (client) => {
    const schema = await schemaState(client, MIGRATIONS_DIR);
    if (schema.kind !== "current")
      throw new Error(`the schema is ${schema.kind}: run "storage-node migrate"`);
    const exists = await client.query(`select from node where node_id = $1`, [nodeId]);
    const older = await isOlder(client, nodeId, remembered);
    if (exists.rows.length === 0) {
      const knownLvols = new Map();
      return { rows: [], knownStores: new Set(), knownLvols, knownSnapshots: new Map(), older };
    }
    const { disks, lvols, snapshots } = await loadNode(client, nodeId);
    const withStore = disks.filter(({ lvsUuid }) => lvsUuid !== undefined);
    return {
      rows: disks,
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
