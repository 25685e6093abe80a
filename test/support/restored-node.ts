// A node whose database is replaced by an older copy of itself, as after a restore from a backup.
import { join } from "node:path";
import type { Logger } from "pino";
import { run } from "../../src/cli/cli.ts";
import { BY_HAND, agentEnv, call, startAgent, until, type TestAgent } from "./agent.ts";
import { testDatabase, type TestDatabase } from "./database.ts";
import {
  inProcessTarget,
  type InProcessOptions,
  type InProcessTarget,
} from "./in-process-target.ts";
import { temporaryFolder } from "./temporary-folder.ts";
import { WAIT } from "./volumes.ts";

export type RestoredNode = AsyncDisposable & {
  readonly target: InProcessTarget;
  /** Runs an agent of the node on a database, and stops it. */
  readonly withAgent: <T>(
    database: TestDatabase,
    act: (agent: TestAgent) => Promise<T>,
    log?: Logger,
  ) => Promise<T>;
  /** A copy of the database as it is now; no agent may run. */
  readonly backup: (database: TestDatabase) => Promise<TestDatabase>;
  readonly emptyDatabase: () => Promise<TestDatabase>;
  readonly rebuild: (
    database: TestDatabase,
    ...args: readonly string[]
  ) => Promise<{ readonly code: number; readonly output: string }>;
};

export async function restoredNode(options: InProcessOptions = {}): Promise<RestoredNode> {
  const stack = new AsyncDisposableStack();
  const target = stack.use(await inProcessTarget(options));
  const folder = stack.use(await temporaryFolder());
  const stateDir = join(folder.path, "state");
  const database = async (template?: string) =>
    stack.use(await testDatabase(template === undefined ? {} : { template }));
  return {
    target,
    withAgent: async ({ url }, act, log) => {
      const env = { STORAGE_NODE_STATE_DIR: stateDir, ...BY_HAND };
      await using agent = await startAgent({ url, target }, env, log === undefined ? {} : { log });
      return await act(agent);
    },
    backup: ({ name }) => database(name),
    emptyDatabase: () => database(),
    rebuild: async ({ url }, ...args) => {
      const output: string[] = [];
      const print = (text: string) => output.push(text);
      const env = agentEnv({ url, target, stateDir, root: "/" });
      const signal = new AbortController().signal;
      const code = await run(["rebuild", ...args], { env, signal, stdout: print, stderr: print });
      return { code, output: output.join("\n") };
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

/** Whom the target lets in, and nobody else: what a host finds that tries to connect. */
export function letIn({ target }: Pick<RestoredNode, "target">, nqn: string | undefined) {
  const subsystem = target.state().subsystems.get(nqn ?? "");
  if (subsystem === undefined) return undefined;
  return subsystem.allowAnyHost ? ["*"] : subsystem.hosts.toSorted();
}

/** As it was before the lvol was made: what no agent may do, the trigger forbids. */
export async function forgetLvol(database: TestDatabase, id: string): Promise<void> {
  await database.query(`alter table lvol disable trigger lvol_uuid_is_kept`);
  await database.query(
    `update lvol set lvol_uuid = null, lvs_uuid = null, observed_size_bytes = null,
       exported = false, observed_generation = 0 where id = '${id}'`,
  );
  await database.query(`alter table lvol enable trigger lvol_uuid_is_kept`);
}

/** As forgetLvol, of all snapshots. */
export async function forgetSnapshots(database: TestDatabase): Promise<void> {
  await database.query(`alter table snapshot disable trigger lvol_uuid_is_kept`);
  await database.query(
    `update snapshot set lvol_uuid = null, lvs_uuid = null, observed_size_bytes = null,
       pending_op = null, observed_generation = 0`,
  );
  await database.query(`alter table snapshot enable trigger lvol_uuid_is_kept`);
}

export async function onHold({ client }: TestAgent): Promise<void> {
  await until("it is on hold", async () => {
    return (await call(client, client.getNode.bind(client), {})).hold?.held === true;
  });
}

/** Every volume's intent was carried out as far as its rows and the target permit. */
export async function exportsAre(
  node: Pick<RestoredNode, "target">,
  wanted: readonly (readonly [nqn: string | undefined, hosts: readonly string[]])[],
): Promise<void> {
  await until("the target lets in whom it should", () =>
    wanted.every(([nqn, hosts]) => letIn(node, nqn)?.join() === hosts.join()),
  ).catch((cause: unknown) => {
    const found = wanted.map(([nqn]) => `${nqn}: ${letIn(node, nqn)?.join()}`);
    throw new Error(found.join("; "), { cause });
  });
}

export async function changeHost(
  { client }: TestAgent,
  kind: "allowHost" | "revokeHost",
  { lvolId, hostNqn }: { readonly lvolId: string; readonly hostNqn: string },
): Promise<void> {
  await call(client, client[kind].bind(client), { lvolId, hostNqn, waitTimeout: WAIT });
}
