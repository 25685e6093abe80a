// `storage-node rebuild`: recreates database rows from the lvstores and lvols on the target.
// Without --apply it never writes a row, and only prints what it would write.
import { pino } from "pino";
import { parseArgs } from "node:util";
import { EXIT_FAILED, EXIT_USAGE, messageOf, type Io } from "./io.ts";
import { EXIT_CONFIG, readConfigOrFaults, type Config } from "../config.ts";
import { LocalMemory } from "../local/local-memory.ts";
import { spdkClient } from "../spdk/client.ts";
import { SpdkConnection } from "../spdk/connection.ts";
import { openDatabase, type Database } from "../store/database.ts";
import { MIGRATIONS_DIR, schemaState } from "../store/migrate.ts";
import { loadNode, registerNode } from "../store/statements.ts";
import { openKernel } from "../sysfs/kernel.ts";
import { applyRebuild, refuseIfLed } from "../rebuild/apply.ts";
import { attachDisks, lookAtTarget } from "../rebuild/found.ts";
import { planRebuild, type RebuildPlan } from "../rebuild/plan.ts";

const USAGE = `usage: storage-node rebuild [--attach] [--apply]

  Creates database rows for the lvstores and volumes on the target that the database does not have.
  Without --apply it only prints what it would write. The rows have no hosts: the exports keep their
  hosts until AllowHost or RevokeHost sets them.

  --attach   first attach the disks that serve would attach
  --apply    write the rows, and end the node's hold`;

const CONNECT_MS = 5_000;

export async function rebuild(args: readonly string[], io: Io): Promise<number> {
  let flags: { attach?: boolean; apply?: boolean; help?: boolean };
  try {
    const options = {
      attach: { type: "boolean" },
      apply: { type: "boolean" },
      help: { type: "boolean" },
    } as const;
    flags = parseArgs({ args: [...args], allowPositionals: false, options }).values;
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
    await run(config, { attach: flags.attach === true, apply: flags.apply === true, io });
    return 0;
  } catch (error) {
    io.stderr(`storage-node rebuild: ${messageOf(error)}`);
    return EXIT_FAILED;
  }
}

async function run(
  config: Config,
  { attach, apply, io }: { readonly attach: boolean; readonly apply: boolean; readonly io: Io },
): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const log = pino({ level: "silent" });
  const database = stack.use(openDatabase({ url: config.databaseUrl, log }));
  const known = await readKnown(database, config);
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
  const plan = planRebuild(found, { ...config, ...known, now: new Date() });
  show(plan, io);
  if (!apply) {
    io.stdout("nothing was written; run it again with --apply to write this and end the hold");
    return;
  }
  const remembered = new LocalMemory(config.stateDir).read();
  const written = await database.transaction(async (client) => {
    await registerNode(client, config);
    await refuseIfLed(client, config.nodeId);
    return await applyRebuild(client, config.nodeId, { plan, remembered });
  });
  io.stdout(`written: ${written.disks} disks, ${written.lvols} volumes; the hold is ended`);
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

async function readKnown(database: Database, { nodeId }: Config) {
  return await database.transaction(async (client) => {
    const schema = await schemaState(client, MIGRATIONS_DIR);
    if (schema.kind !== "current")
      throw new Error(`the schema is ${schema.kind}: run "storage-node migrate"`);
    const exists = await client.query(`select from node where node_id = $1`, [nodeId]);
    if (exists.rows.length === 0)
      return { knownStores: new Set<string>(), knownLvols: new Set<string>() };
    const { disks, lvols } = await loadNode(client, nodeId);
    const withStore = disks.filter(({ lvsUuid }) => lvsUuid !== undefined);
    return {
      knownStores: new Set(withStore.map(({ id }) => id)),
      knownLvols: new Set(lvols.map(({ id }) => id)),
    };
  });
}

function show({ disks, lvols, left }: RebuildPlan, io: Io): void {
  for (const disk of disks) io.stdout(`disk    ${disk.id}  ${disk.serial}  store ${disk.lvsUuid}`);
  for (const lvol of lvols) {
    const kind = lvol.thin ? "thin" : "thick";
    io.stdout(
      `volume  ${lvol.id}  ${lvol.sizeBytes} bytes ${kind}  lvol ${lvol.lvolUuid}  ${lvol.nqn}`,
    );
  }
  for (const one of left) io.stdout(`left    ${one}`);
}
