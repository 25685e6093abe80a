// The store session: checks the schema, registers the node, acquires and keeps the local lock and
// the lease, and has the rows read. It retries for ever while the database cannot be reached or
// another agent leads. It never migrates the schema.
import type { Logger } from "pino";
import type { LocalLock } from "../local/local-lock.ts";
import { atLeast, unlikeRemembered } from "../local/local-memory.ts";
import { Component, type StoreStatus } from "./component.ts";
import { rowsOf } from "./copied-rows.ts";
import { connect, isDatabaseDown, isLockedOut, type Database } from "./database.ts";
import { unconfirmedHostCount } from "../model/lvol.ts";
import { shownLease, type Fence } from "./fence.ts";
import {
  releaseLease,
  readLease,
  renewLease,
  setHold,
  acquireLease,
  type NodeLease,
} from "./lease.ts";
import type { LocalCopy } from "./local-copy.ts";
import { schemaState } from "./migrate.ts";
import { OtherWriters } from "./other-writers.ts";
import type { Rows } from "./rows.ts";
import { StateDirFault, type StateDir } from "./state-dir.ts";
import { NodeMismatch, registerNode } from "./statements.ts";
import { RowsUnusable, type Writer } from "./writer.ts";
import { DATABASE_SILENT_MS, LEASE_RETRY_MS, leaseUseMs, renewalMs } from "../limits.ts";

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
  readonly memory: StateDir;
  readonly copy: LocalCopy;
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
  readonly #database = new Component("no connection yet", { limitMs: DATABASE_SILENT_MS });
  readonly #lease = new Component("not taken yet");
  #schemaChecked = false;
  #timer: NodeJS.Timeout | undefined;
  #turn: Promise<void> | undefined;
  readonly #closing = new AbortController();
  readonly #others = new OtherWriters();

  constructor(options: StoreSessionOptions) {
    this.#options = options;
    // A rejection before anything awaits `failed` must not count as unhandled.
    this.#failed.promise.catch(() => {});
    options.writer.reachability.onChange((connected) => {
      this.#database.set(connected, connected ? "" : "the database cannot be reached");
      if (connected) this.check();
    });
    // An attempt of its own tells whether the database is away: the transaction may have failed since
    // this process was stopped.
    options.writer.reachability.onUnreachable(() => this.check());
    options.database.onConnectionLost(() => this.check());
    options.rows.subscribe(() => {
      if (!options.rows.copied) options.fence.setCopied(false);
    });
    options.writer.onLeaseLost(() => this.#loseLease("another agent has taken the lease"));
  }

  get status(): StoreStatus {
    return this.#database.status;
  }

  get leaseStatus(): StoreStatus {
    return shownLease(this.#lease.status, this.#options.fence, this.status);
  }

  get failed(): Promise<never> {
    return this.#failed.promise;
  }

  start(): void {
    this.check();
  }

  /**
   * Asks the database now instead of at the next renewal: what may be done to the target depends on
   * whether it answers.
   */
  check(): void {
    clearTimeout(this.#timer);
    if (this.#closing.signal.aborted || this.#turn !== undefined) return;
    // Begin the turn in a microtask, when #turn is set: a turn that loses the lease would otherwise
    // begin a second one within itself.
    const turn = Promise.resolve().then(() => this.#runTurn());
    this.#turn = turn.then((nextMs) => {
      this.#turn = undefined;
      if (this.#closing.signal.aborted || nextMs === undefined) return;
      this.#timer = setTimeout(() => this.check(), nextMs);
    });
  }

  /** Runs one turn; resolves with the ms until the next one, undefined for none. */
  async #runTurn(): Promise<number | undefined> {
    const startMs = performance.now();
    // Slow is as good as away; what is restored meanwhile is what was wanted. A timer that is late
    // says nothing about the database: this process was stopped.
    const silent = setTimeout(() => {
      if (performance.now() - startMs < 2 * DATABASE_SILENT_MS) this.#databaseAway(startMs);
    }, DATABASE_SILENT_MS);
    this.#database.begin();
    try {
      const nextMs = await this.#step();
      this.#options.fence.setDatabaseReached();
      if (this.#schemaChecked) this.#database.set(true, "");
      return nextMs;
    } catch (error) {
      if (error instanceof StateDirFault || error instanceof RowsUnusable) {
        this.#database.set(true, "");
        this.#lease.set(false, `not taken: ${error.message}`);
        return LEASE_RETRY_MS;
      }
      if (error instanceof WrongDatabase || error instanceof NodeMismatch) {
        this.#database.set(false, error.message);
        this.#failed.reject(error);
        return undefined;
      }
      this.#onUnusable(error, startMs);
      return LEASE_RETRY_MS;
    } finally {
      this.#database.end();
      clearTimeout(silent);
    }
  }

  #onUnusable(error: unknown, startMs: number): void {
    const down = isDatabaseDown(error);
    const message = error instanceof Error ? error.message : String(error);
    const what = isLockedOut(error) ? "keeps the lease waiting" : "cannot be reached";
    const reason = down ? `the database ${what}: ${message}` : message;
    const isNew = this.#database.status.reason !== reason;
    this.#database.set(false, reason);
    if (down) this.#databaseAway(startMs);
    const level = down || !isNew ? "debug" : "error";
    this.#options.log[level]({ err: error }, "database is not usable");
    const { fence } = this.#options;
    if (fence.leaseHeld) return;
    const state = fence.epoch === undefined ? "not taken" : "not renewed in time";
    this.#lease.set(false, `${state}: ${reason}`);
  }

  /**
   * An attempt to reach the database that began at sinceMs has failed. It counts for one lease term:
   * after that another agent may have reached it, as this process may have been stopped.
   */
  #databaseAway(sinceMs: number): void {
    const { fence, writer, rows, leaseTermMs } = this.#options;
    fence.setDatabaseAway(sinceMs + leaseTermMs);
    writer.endWaits();
    if (rows.node === undefined && fence.lockHeld) this.#readCopy();
  }

  /** The database was never reached: what the local copy says was wanted is restored and shown. */
  #readCopy(): void {
    const { fence, rows, copy, memory, log } = this.#options;
    const found = copy.read(memory);
    if (found === undefined) return;
    const { header } = found;
    copy.restored(header);
    rows.replace({ ...rowsOf(found), snapshots: [], copied: true });
    fence.setCopied(header.hold === undefined);
    log.warn({ as_of: header.time, hold: header.hold }, "rows come from the local copy");
  }

  async #step(): Promise<number> {
    const { fence, lock, database } = this.#options;
    const held = lock.hold();
    if (!held && fence.lockHeld) this.#loseLease(lock.reason);
    fence.setLock(held);
    const client = await connect(database.pool);
    // It answers: rows of the local copy must not meet those of a database that may be older.
    if (fence.epoch === undefined) fence.setDatabaseReached();
    try {
      if (!this.#schemaChecked) {
        const reason = await this.#checkAndRegister(client);
        if (reason !== undefined) {
          this.#database.set(false, reason);
          this.#lease.set(false, `not taken: ${reason}`);
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
    const { fence, lock, memory, copy, holder, config, leaseTermMs: termMs, log } = this.#options;
    const { nodeId } = config;
    // The file is only written when the lease is acquired or renewed: include what was read since.
    const remembered = atLeast(memory.read(), this.#options.rows.node?.revision);
    const before = await readLease(client, nodeId);
    const startMs = performance.now();
    const epoch = remembered?.epoch ?? 0n;
    const claim = { nodeId, holder, lock: lock.identity, termMs, atLeast: epoch };
    const lease = await acquireLease(client, claim);
    if ("heldBy" in lease) {
      await copy.standDown();
      this.#standBy(`the lease is held by ${lease.heldBy}`);
      return LEASE_RETRY_MS;
    }
    const mismatch = unlikeRemembered(remembered, before);
    const hold = lease.hold ?? mismatch;
    if (lease.hold === undefined && mismatch !== undefined) await setHold(client, nodeId, mismatch);
    fence.setHold(hold);
    await this.#options.writer.readAsLeader(this.#closing.signal);
    // Before the first intent is admitted, as its answer may have to wait for the copy.
    if (hold !== undefined) await copy.hold(hold, lease.epoch);
    const copied = hold === undefined ? copy.lead(lease.epoch) : Promise.resolve();
    fence.setLease(lease.epoch, startMs + leaseUseMs(termMs));
    if (hold === undefined) this.#options.writer.proveCommits();
    if (hold === undefined) await this.#remember(lease, copied);
    else log.error({ hold }, "node is on hold: nothing is changed until an operator decides");
    this.#lease.set(true, "");
    log.info({ epoch: lease.epoch.toString() }, "lease acquired");
    return hold === undefined ? renewalMs(termMs) : LEASE_RETRY_MS;
  }

  async #renew(client: Parameters<typeof renewLease>[0], epoch: bigint): Promise<number> {
    const { fence, config, leaseTermMs: termMs, copy } = this.#options;
    const startMs = performance.now();
    const renewed = await renewLease(client, { nodeId: config.nodeId, epoch, termMs });
    if (renewed === undefined) {
      await copy.standDown();
      this.#loseLease("another agent has taken the lease");
      return LEASE_RETRY_MS;
    }
    if (fence.hold !== undefined && renewed.hold === undefined) {
      await this.#endHold(client, renewed, epoch);
    } else if (fence.hold === undefined && renewed.hold !== undefined) {
      fence.setHold(renewed.hold);
      await copy.hold(renewed.hold, epoch);
    }
    fence.setLease(epoch, startMs + leaseUseMs(termMs));
    this.#lease.set(true, "");
    this.#others.renewed(this.#options, renewed.revision);
    if (fence.hold === undefined) await this.#remember(renewed, copy.keep());
    return fence.hold === undefined ? renewalMs(termMs) : LEASE_RETRY_MS;
  }

  /**
   * The hold is gone from the node's row. `rebuild --apply` has raised the revision to what the node
   * remembers, and has written down which facts of the older rows must not act; whoever only removed the
   * hold has not: the node is on hold again.
   */
  async #endHold(
    client: Parameters<typeof setHold>[0],
    lease: NodeLease,
    epoch: bigint,
  ): Promise<void> {
    const { fence, memory, writer, rows, copy, config, log } = this.#options;
    const mismatch = unlikeRemembered(memory.read(), lease);
    if (mismatch !== undefined) {
      await setHold(client, config.nodeId, mismatch);
      log.error({ hold: mismatch }, "hold was removed from the row of the node and is set again");
      return;
    }
    await writer.readAsLeader(this.#closing.signal);
    copy.lead(epoch).catch(() => {});
    fence.setHold(undefined);
    writer.proveCommits();
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
    this.#options.copy.pause();
    this.#lease.set(false, reason);
    this.check();
  }

  /** The memory never knows more than the copy, which would be taken for an old one. */
  async #remember({ epoch }: Pick<NodeLease, "epoch">, copied: Promise<void>): Promise<void> {
    const { memory, config, rows } = this.#options;
    const { nodeId, fleet } = config;
    const revision = rows.node?.revision ?? 0n;
    // A copy that could not be kept says so itself.
    await copied.catch(() => {});
    memory.write({ nodeId, fleet, epoch, revision });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort(new Error("the agent is stopping"));
    clearTimeout(this.#timer);
    await this.#turn;
    const { fence, database, config, rows, copy, lock } = this.#options;
    const { epoch } = fence;
    if (epoch !== undefined && fence.hold === undefined && rows.node !== undefined) {
      await this.#remember({ epoch }, copy.keep());
    }
    fence.loseLease();
    if (epoch !== undefined) {
      await releaseLease(database.pool, config.nodeId, epoch).catch(() => {});
    }
    lock[Symbol.dispose]();
  }
}
