// One storage node to measure: its own database, a target process and an agent process.
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Client } from "pg";
import { z } from "zod";
import type { Postgres } from "../../src/demo/postgres.ts";
import { call } from "../support/agent.ts";
import { migratedDatabase } from "../support/migrated-database.ts";
import { NODE } from "../support/model.ts";
import {
  realTarget,
  simulatedTarget,
  type RealTarget,
  type TestTarget,
} from "../support/target.ts";
import { idOf, provision, remove, stateOf } from "../support/volumes.ts";
import { startAgentProcess, type AgentUnderTest } from "./agent-under-test.ts";
import { CountingProxies } from "./counts.ts";

/** Cluster size of disks of up to 2 TB: the minimum size of a volume. */
export const VOLUME_BYTES = 4n * 1024n ** 2n;
const DISKS = 2;
const DISK_BYTES = 128n * 1024n ** 3n;
/** Concurrent calls where time is not measured. */
const AT_A_TIME = 250;

const fabricDisk = z.object({
  serial: z.string(),
  trtype: z.string(),
  traddr: z.string(),
  trsvcid: z.string(),
  subnqn: z.string(),
});

export type FabricEntry = z.infer<typeof fabricDisk>;

export type NodeOptions = {
  /** Count SPDK calls and SQL statements in proxies, which slows the agent down. */
  readonly counted?: boolean;
};

export type NodeParts = {
  readonly postgres: Postgres;
  readonly realTarget: RealTarget | undefined;
  readonly profileDir: string | undefined;
};

let lastDatabase = 0;

export class BenchNode implements AsyncDisposable {
  readonly target: TestTarget;
  readonly database: Client;
  readonly fabric: readonly FabricEntry[];
  readonly #parts: NodeParts;
  readonly #databaseUrl: string;
  readonly #folder: string;
  readonly #stack: AsyncDisposableStack;
  #agent: AgentUnderTest | undefined;
  #proxies: CountingProxies | undefined;

  private constructor(inside: {
    readonly stack: AsyncDisposableStack;
    readonly parts: NodeParts;
    readonly folder: string;
    readonly target: TestTarget;
    readonly database: Client;
    readonly databaseUrl: string;
    readonly fabric: readonly FabricEntry[];
  }) {
    this.#stack = inside.stack;
    this.#parts = inside.parts;
    this.#folder = inside.folder;
    this.target = inside.target;
    this.database = inside.database;
    this.#databaseUrl = inside.databaseUrl;
    this.fabric = inside.fabric;
  }

  static async start(parts: NodeParts, { counted = false }: NodeOptions = {}): Promise<BenchNode> {
    await using stack = new AsyncDisposableStack();
    const folder = await mkdtemp(join(tmpdir(), "sn-b-"));
    stack.defer(() => rm(folder, { recursive: true, force: true }));
    lastDatabase += 1;
    const databaseUrl = await migratedDatabase(parts.postgres, `bench_${lastDatabase}`);
    const database = new Client({ connectionString: databaseUrl });
    await database.connect();
    stack.defer(() => database.end());
    const args = ["--max-subsystems", "6200"];
    const target = stack.use(
      parts.realTarget === undefined
        ? await simulatedTarget({ disks: DISKS, diskBytes: DISK_BYTES, args })
        : await realTarget(parts.realTarget),
    );
    const fabric = z
      .array(fabricDisk)
      .parse(JSON.parse(await readFile(target.fabricDisks, "utf8")));
    const inside = { stack, parts, folder, target, database, databaseUrl, fabric };
    const node = new BenchNode({ ...inside, stack: stack.move() });
    // A bench that exits early must not leave processes running.
    const end = () => node.#kill();
    process.once("exit", end);
    node.#stack.defer(() => void process.off("exit", end));
    try {
      await node.startAgent({ counted });
    } catch (error) {
      await node[Symbol.asyncDispose]();
      throw error;
    }
    return node;
  }

  get agent(): AgentUnderTest {
    if (this.#agent === undefined) throw new Error("the agent is not running");
    return this.#agent;
  }

  /** The counting proxies; only with the option `counted`. */
  get proxies(): CountingProxies {
    if (this.#proxies === undefined)
      throw new Error("the node was started without the option counted");
    return this.#proxies;
  }

  /** Starts the agent; restarts it if it is running. */
  async startAgent({ counted = false }: NodeOptions): Promise<void> {
    await this.#stopAgent();
    const behind = { socket: this.target.socket, databaseUrl: this.#databaseUrl };
    if (counted) this.#proxies = await CountingProxies.open(this.#folder, behind);
    this.#agent = await startAgentProcess({
      databaseUrl: this.#proxies?.databaseUrl ?? behind.databaseUrl,
      socket: this.#proxies?.socket ?? behind.socket,
      fabricDisks: this.target.fabricDisks,
      disks: this.fabric.length,
      stateDir: this.#folder,
      profileDir: this.#parts.profileDir,
    });
  }

  /** Provisions volumes and waits until each is UP. Returns their ids. */
  async provision(count: number): Promise<readonly string[]> {
    const made = await Promise.all(
      Array.from({ length: count }, () => provision(this.agent, { sizeBytes: VOLUME_BYTES })),
    );
    const notUp = made.filter((lvol) => stateOf(lvol) !== "LVOL_STATE_UP");
    const first = notUp[0];
    if (first !== undefined) {
      throw new Error(
        `${notUp.length} of ${count} volumes are not UP: ${JSON.stringify(first.status?.conditions)}`,
      );
    }
    return made.map(idOf);
  }

  /** Provisions volumes until the node has `count`. */
  async fillTo(count: number): Promise<void> {
    for (let existing = (await this.volumes()).length; existing < count; existing += AT_A_TIME) {
      await this.provision(Math.min(AT_A_TIME, count - existing));
    }
    const { length } = await this.volumes();
    if (length < count) throw new Error(`the database has ${length} of ${count} volumes`);
  }

  async remove(ids: readonly string[]): Promise<void> {
    for (let first = 0; first < ids.length; first += AT_A_TIME) {
      const some = ids.slice(first, first + AT_A_TIME);
      const gone = await Promise.all(some.map((id) => remove(this.agent, id)));
      if (gone.some(({ done }) => !done)) throw new Error("a volume was not deleted in time");
    }
  }

  /** In the order of creation. */
  async volumes(): Promise<readonly VolumeOnNode[]> {
    const { rows } = await this.database.query(
      `select id, disk_id as "diskId", nqn, lvol_uuid as "lvolUuid" from lvol
       where node_id = $1 and delete_requested_time is null order by create_time, id`,
      [NODE],
    );
    return z.array(volumeRow).parse(rows);
  }

  /** Total number of transactions in which the agent wrote rows (the revision of the node). */
  async writes(): Promise<number> {
    const { rows } = await this.database.query(
      `select revision::int as revision from node where node_id = $1`,
      [NODE],
    );
    return z.array(z.object({ revision: z.number() })).parse(rows)[0]?.revision ?? 0;
  }

  async stores(): Promise<readonly StoreOnNode[]> {
    const { client } = this.agent;
    const page = { pageSize: 0, pageToken: "" };
    const { disks } = await call(client, client.listDisks.bind(client), page);
    return disks.map(({ meta, status }) => ({
      diskId: meta?.id ?? "",
      lvsUuid: status?.lvstore?.uuid ?? "",
    }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stopAgent();
    await this.#stack.disposeAsync();
  }

  #kill(): void {
    for (const pid of [this.#agent?.pid, this.target.pid()]) {
      if (pid !== undefined) process.kill(pid, "SIGKILL");
    }
  }

  async #stopAgent(): Promise<void> {
    await this.#agent?.[Symbol.asyncDispose]();
    this.#agent = undefined;
    await this.#proxies?.[Symbol.asyncDispose]();
    this.#proxies = undefined;
  }
}

const volumeRow = z.object({
  id: z.string(),
  diskId: z.string(),
  nqn: z.string(),
  lvolUuid: z.string(),
});

export type VolumeOnNode = z.infer<typeof volumeRow>;

export type StoreOnNode = { readonly diskId: string; readonly lvsUuid: string };
