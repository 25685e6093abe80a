// From "a URL" to "this process may change things": the schema is checked, the node is registered, the
// local lock and the lease are taken and kept, and the rows are read. Tries for ever while the database
// is away or another agent leads; never migrates.
import type { Logger } from "pino";
import type { LocalLock } from "../local/local-lock.ts";
import { unlikeRemembered, type LocalMemory, type Remembered } from "../local/local-memory.ts";
import { connect, isDatabaseDown, type Database } from "./database.ts";
import type { Fence } from "./fence.ts";
import {
  releaseLease,
  readLease,
  renewLease,
  setHold,
  acquireLease,
  type NodeLease,
} from "./lease.ts";
import { schemaState } from "./migrate.ts";
import type { Rows } from "./rows.ts";
import { NodeMismatch, registerNode } from "./statements.ts";
import type { Writer } from "./writer.ts";

const RETRY_MS = 1_000;

export type StoreStatus = { readonly ok: boolean; readonly reason: string; readonly since: Date };

/** The agent must not go on with this database. */
class WrongDatabase extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "WrongDatabase";
  }
}

export type StoreSessionOptions = {
  readonly database: Database;
  readonly writer: Writer;
  readonly rows: Rows;
  readonly fence: Fence;
  readonly lock: LocalLock;
  readonly memory: LocalMemory;
  /** This process and no other. */
  readonly holder: string;
  /** A lease is renewed three times in its term, and used for two thirds of it. */
  readonly leaseTermMs: number;
  readonly migrationsDir: string;
  readonly log: Logger;
  readonly config: {
    readonly nodeId: string;
    readonly fleet: string;
    readonly nqnPrefix: string;
  };
};

export class StoreSession {
  readonly #options: StoreSessionOptions;
  readonly #failed = Promise.withResolvers<never>();
  readonly #database = new Component("no connection yet");
  readonly #lease = new Component("not taken yet");
  #schemaChecked = false;
  #timer: NodeJS.Timeout | undefined;
  #turn: Promise<void> | undefined;
  readonly #closing = new AbortController();

  constructor(options: StoreSessionOptions) {
    this.#options = options;
    // Nobody may be waiting for it yet.
    this.#failed.promise.catch(() => {});
    options.writer.onConnectedChange((connected) => {
      this.#database.set(connected, connected ? "" : "the database cannot be reached");
    });
    options.writer.onLeaseLost(() => this.#lost("another agent has taken the lease"));
  }

  get status(): StoreStatus {
    return this.#database.status;
  }

  get leaseStatus(): StoreStatus {
    return this.#lease.status;
  }

  get failed(): Promise<never> {
    return this.#failed.promise;
  }

  start(): void {
    clearTimeout(this.#timer);
    if (this.#closing.signal.aborted || this.#turn !== undefined) return;
    // Not in this tick: what is found lost would begin a turn within the turn that finds it.
    const taken = Promise.resolve().then(() => this.#acquireLease());
    this.#turn = taken.then((nextMs) => {
      this.#turn = undefined;
      if (this.#closing.signal.aborted || nextMs === undefined) return;
      this.#timer = setTimeout(() => this.start(), nextMs);
    });
  }

  /** One turn; resolves with when the next is due, undefined for never. */
  async #acquireLease(): Promise<number | undefined> {
    try {
      return await this.#step();
    } catch (error) {
      if (error instanceof WrongDatabase || error instanceof NodeMismatch) {
        this.#database.set(false, error.message);
        this.#failed.reject(error);
        return undefined;
      }
      const down = isDatabaseDown(error);
      const message = error instanceof Error ? error.message : String(error);
      this.#database.set(false, down ? `the database cannot be reached: ${message}` : message);
      if (down) this.#options.fence.setDatabaseAway(performance.now() + this.#options.leaseTermMs);
      this.#options.log[down ? "debug" : "error"]({ err: error }, "database is not usable");
      this.#nameLapse();
      return RETRY_MS;
    }
  }

  async #step(): Promise<number> {
    const { fence, lock, database } = this.#options;
    const held = lock.hold();
    if (!held && fence.lockHeld) this.#lost(lock.reason);
    fence.setLock(held);
    const client = await connect(database.pool);
    try {
      if (!this.#schemaChecked) {
        const reason = await this.#check(client);
        if (reason !== undefined) {
          this.#database.set(false, reason);
          return RETRY_MS;
        }
        this.#schemaChecked = true;
        // Rows are read whoever leads.
        this.#options.writer.start();
      }
      if (!held) {
        this.#standBy(lock.reason);
        return RETRY_MS;
      }
      const { epoch } = fence;
      if (epoch === undefined) return await this.#lead(client);
      return await this.#renew(client, epoch);
    } finally {
      client.release();
    }
  }

  /** Why the database cannot be used yet; undefined when it can. */
  async #check(client: Parameters<typeof schemaState>[0]): Promise<string | undefined> {
    const { migrationsDir, config } = this.#options;
    const state = await schemaState(client, migrationsDir);
    switch (state.kind) {
      case "older":
        return `the schema is older than this agent: run "storage-node migrate"`;
      case "newer":
        throw new WrongDatabase("the schema is newer than this agent: use a newer agent");
      case "edited":
        throw new WrongDatabase(`migration ${state.name} was edited after it ran`);
      case "current":
        await registerNode(client, config);
        return undefined;
    }
  }

  async #lead(client: Parameters<typeof acquireLease>[0]): Promise<number> {
    const { fence, lock, memory, holder, config, leaseTermMs: termMs, log } = this.#options;
    const { nodeId } = config;
    // What was read since is remembered, too: the file is written with each renewal only.
    const remembered = atLeast(memory.read(), this.#options.rows.node?.revision);
    const before = await readLease(client, nodeId);
    const startMs = performance.now();
    const epoch = remembered?.epoch ?? 0n;
    const claim = { nodeId, holder, lock: lock.identity, termMs, atLeast: epoch };
    const taken = await acquireLease(client, claim);
    if ("heldBy" in taken) {
      this.#standBy(`the lease is held by ${taken.heldBy}`);
      return RETRY_MS;
    }
    const unlike = unlikeRemembered(remembered, before);
    const hold = taken.hold ?? unlike;
    if (taken.hold === undefined && unlike !== undefined) await setHold(client, nodeId, unlike);
    fence.setHold(hold);
    await this.#options.writer.readAsLeader(this.#closing.signal);
    fence.setLease(taken.epoch, startMs + (termMs * 2) / 3);
    if (hold === undefined) this.#remember(taken);
    else log.error({ hold }, "on hold: nothing is changed until an operator decides");
    this.#lease.set(true, "");
    log.info({ epoch: taken.epoch.toString() }, "lease taken");
    return hold === undefined ? termMs / 3 : RETRY_MS;
  }

  async #renew(client: Parameters<typeof renewLease>[0], epoch: bigint): Promise<number> {
    const { fence, config, leaseTermMs: termMs, writer, log } = this.#options;
    const startMs = performance.now();
    const renewed = await renewLease(client, { nodeId: config.nodeId, epoch, termMs });
    if (renewed === undefined) {
      this.#lost("another agent has taken the lease");
      return RETRY_MS;
    }
    if (fence.hold !== undefined && renewed.hold === undefined) {
      await writer.readAsLeader(this.#closing.signal);
      fence.setHold(undefined);
      log.info("hold lifted");
    } else if (fence.hold === undefined && renewed.hold !== undefined) {
      fence.setHold(renewed.hold);
    }
    fence.setLease(epoch, startMs + (termMs * 2) / 3);
    this.#lease.set(true, "");
    this.#database.set(true, "");
    if (fence.hold === undefined) this.#remember(renewed);
    return fence.hold === undefined ? termMs / 3 : RETRY_MS;
  }

  /** Leads nothing; what is read goes on being fresh. */
  #standBy(reason: string): void {
    this.#lease.set(false, reason);
    this.#options.writer.refresh();
  }

  #lost(reason: string): void {
    this.#options.log.warn({ reason }, "lease lost");
    this.#options.fence.loseLease();
    this.#lease.set(false, reason);
    if (this.#turn === undefined) this.start();
  }

  /** A lease that could not be renewed ends by itself. */
  #nameLapse(): void {
    const { fence } = this.#options;
    if (!fence.leaseHeld) this.#lease.set(false, "it could not be renewed in time");
  }

  #remember({ epoch }: NodeLease): void {
    const { memory, config, rows } = this.#options;
    const { nodeId, fleet } = config;
    memory.write({ nodeId, fleet, epoch, revision: rows.node?.revision ?? 0n });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort(new Error("the agent is stopping"));
    clearTimeout(this.#timer);
    await this.#turn;
    const { fence, database, config, rows, lock } = this.#options;
    const { epoch } = fence;
    if (epoch !== undefined && fence.hold === undefined && rows.node !== undefined) {
      this.#remember({ epoch, revision: rows.node.revision, hold: undefined });
    }
    fence.loseLease();
    if (epoch !== undefined) {
      await releaseLease(database.pool, config.nodeId, epoch).catch(() => {});
    }
    lock[Symbol.dispose]();
  }
}

function atLeast(
  remembered: Remembered | undefined,
  revision: bigint | undefined,
): Remembered | undefined {
  if (remembered === undefined || revision === undefined) return remembered;
  return revision > remembered.revision ? { ...remembered, revision } : remembered;
}

/** One line of GetHealth: whether it is well, why not, and since when. */
class Component {
  #status: StoreStatus;

  constructor(reason: string) {
    this.#status = { ok: false, reason, since: new Date() };
  }

  get status(): StoreStatus {
    return this.#status;
  }

  set(ok: boolean, reason: string): void {
    const { status } = this;
    if (ok === status.ok && reason === status.reason) return;
    this.#status = { ok, reason, since: ok === status.ok ? status.since : new Date() };
  }
}
