// The store session: checks the schema, registers the node, acquires and keeps the local lock and
// the lease, and has the rows read. It retries for ever while the database cannot be reached or
// another agent leads. It never migrates the schema.
import type { Logger } from "pino";
import type { LocalLock } from "../local/local-lock.ts";
import { unlikeRemembered, type LocalMemory, type Remembered } from "../local/local-memory.ts";
import { connect, isDatabaseDown, type Database } from "./database.ts";
import { unconfirmedHostCount } from "../model/lvol.ts";
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
import { LEASE_RETRY_MS, leaseUseMs, renewalMs } from "../limits.ts";

export type StoreStatus = { readonly ok: boolean; readonly reason: string; readonly since: Date };

/** The agent must not use this database, and a retry cannot help. */
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
  /** Identifies this process among all agents. */
  readonly holder: string;
  /** Lease term in ms. The lease is renewed every third of it and relied on for two thirds. */
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
  readonly #lease = new Component("not acquired yet");
  #schemaChecked = false;
  #timer: NodeJS.Timeout | undefined;
  #turn: Promise<void> | undefined;
  readonly #closing = new AbortController();

  constructor(options: StoreSessionOptions) {
    this.#options = options;
    // A rejection before anything awaits `failed` must not count as unhandled.
    this.#failed.promise.catch(() => {});
    options.writer.onConnectedChange((connected) => {
      this.#database.set(connected, connected ? "" : "the database cannot be reached");
    });
    options.writer.onLeaseLost(() => this.#loseLease("another agent has taken the lease"));
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
    // Begin the turn in a microtask, when #turn is set: a turn that loses the lease would otherwise
    // begin a second one within itself.
    const turn = Promise.resolve().then(() => this.#runTurn());
    this.#turn = turn.then((nextMs) => {
      this.#turn = undefined;
      if (this.#closing.signal.aborted || nextMs === undefined) return;
      this.#timer = setTimeout(() => this.start(), nextMs);
    });
  }

  /** Runs one turn; resolves with the ms until the next one, undefined for none. */
  async #runTurn(): Promise<number | undefined> {
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
      this.#reportExpiredLease();
      return LEASE_RETRY_MS;
    }
  }

  async #step(): Promise<number> {
    const { fence, lock, database } = this.#options;
    const held = lock.hold();
    if (!held && fence.lockHeld) this.#loseLease(lock.reason);
    fence.setLock(held);
    const client = await connect(database.pool);
    try {
      if (!this.#schemaChecked) {
        const reason = await this.#checkAndRegister(client);
        if (reason !== undefined) {
          this.#database.set(false, reason);
          return LEASE_RETRY_MS;
        }
        this.#schemaChecked = true;
        // The rows are read also while another agent leads.
        this.#options.writer.start();
      }
      if (!held) {
        this.#standBy(lock.reason);
        return LEASE_RETRY_MS;
      }
      const { epoch } = fence;
      if (epoch === undefined) return await this.#acquire(client);
      return await this.#renew(client, epoch);
    } finally {
      client.release();
    }
  }

  /**
   * Checks the schema and registers the node. Returns why the database cannot be used yet,
   * undefined if it can. Throws WrongDatabase and NodeMismatch.
   */
  async #checkAndRegister(client: Parameters<typeof schemaState>[0]): Promise<string | undefined> {
    const { migrationsDir, config } = this.#options;
    const state = await schemaState(client, migrationsDir);
    switch (state.kind) {
      case "older":
        return `the schema is older than this agent: run "storage-node migrate"`;
      case "newer":
        throw new WrongDatabase("the schema is newer than this agent: use a newer agent");
      case "edited":
        throw new WrongDatabase(`migration ${state.name} is refused: ${state.reason}`);
      case "current":
        await registerNode(client, config);
        return undefined;
    }
  }

  async #acquire(client: Parameters<typeof acquireLease>[0]): Promise<number> {
    const { fence, lock, memory, holder, config, leaseTermMs: termMs, log } = this.#options;
    const { nodeId } = config;
    // The file is only written when the lease is acquired or renewed: include what was read since.
    const remembered = atLeast(memory.read(), this.#options.rows.node?.revision);
    const before = await readLease(client, nodeId);
    const startMs = performance.now();
    const epoch = remembered?.epoch ?? 0n;
    const claim = { nodeId, holder, lock: lock.identity, termMs, atLeast: epoch };
    const lease = await acquireLease(client, claim);
    if ("heldBy" in lease) {
      this.#standBy(`the lease is held by ${lease.heldBy}`);
      return LEASE_RETRY_MS;
    }
    const mismatch = unlikeRemembered(remembered, before);
    const hold = lease.hold ?? mismatch;
    if (lease.hold === undefined && mismatch !== undefined) await setHold(client, nodeId, mismatch);
    fence.setHold(hold);
    await this.#options.writer.readAsLeader(this.#closing.signal);
    fence.setLease(lease.epoch, startMs + leaseUseMs(termMs));
    if (hold === undefined) this.#remember(lease);
    else log.error({ hold }, "node is on hold: nothing is changed until an operator decides");
    this.#lease.set(true, "");
    log.info({ epoch: lease.epoch.toString() }, "lease acquired");
    return hold === undefined ? renewalMs(termMs) : LEASE_RETRY_MS;
  }

  async #renew(client: Parameters<typeof renewLease>[0], epoch: bigint): Promise<number> {
    const { fence, config, leaseTermMs: termMs } = this.#options;
    const startMs = performance.now();
    const renewed = await renewLease(client, { nodeId: config.nodeId, epoch, termMs });
    if (renewed === undefined) {
      this.#loseLease("another agent has taken the lease");
      return LEASE_RETRY_MS;
    }
    if (fence.hold !== undefined && renewed.hold === undefined) {
      await this.#endHold(client, renewed);
    } else if (fence.hold === undefined && renewed.hold !== undefined) {
      fence.setHold(renewed.hold);
    }
    fence.setLease(epoch, startMs + leaseUseMs(termMs));
    this.#lease.set(true, "");
    this.#database.set(true, "");
    if (fence.hold === undefined) this.#remember(renewed);
    return fence.hold === undefined ? renewalMs(termMs) : LEASE_RETRY_MS;
  }

  /**
   * The hold is gone from the node's row. `rebuild --apply` has raised the revision to what the node
   * remembers, and has written down which facts of the older rows must not act; whoever only removed the
   * hold has not: the node is on hold again.
   */
  async #endHold(client: Parameters<typeof setHold>[0], lease: NodeLease): Promise<void> {
    const { fence, memory, writer, rows, config, log } = this.#options;
    const mismatch = unlikeRemembered(memory.read(), lease);
    if (mismatch !== undefined) {
      await setHold(client, config.nodeId, mismatch);
      log.error({ hold: mismatch }, "hold was removed from the row of the node and is set again");
      return;
    }
    await writer.readAsLeader(this.#closing.signal);
    fence.setHold(undefined);
    log.warn({ unconfirmed_hosts: unconfirmedHostCount(rows.lvols()) }, "hold lifted");
  }

  /**
   * Records why this agent does not lead, and reads the rows again, as another agent writes them.
   */
  #standBy(reason: string): void {
    this.#lease.set(false, reason);
    this.#options.writer.refresh();
  }

  #loseLease(reason: string): void {
    this.#options.log.warn({ reason }, "lease lost");
    this.#options.fence.loseLease();
    this.#lease.set(false, reason);
    if (this.#turn === undefined) this.start();
  }

  /** Reports a lease that has expired because it could not be renewed. */
  #reportExpiredLease(): void {
    const { fence } = this.#options;
    if (!fence.leaseHeld) this.#lease.set(false, "the lease was not renewed in time");
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

/** A component of GetHealth: whether it is ok, why not, and since when. */
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
