// The only writer of the node's rows (group commit). All intents and status records that wait go
// into one transaction with a fixed number of statements; while it commits, the next batch
// collects. A single call costs one commit, and a thousand concurrent calls cost a few.
import { context, ROOT_CONTEXT } from "@opentelemetry/api";
import type { Logger } from "pino";
import type { AdmissionPolicy, Decision, Mutation } from "../model/admission.ts";
import { Refusal } from "../model/errors.ts";
import type { DiskRow } from "../model/disk.ts";
import type { TargetProcess } from "../model/target-process.ts";
import { ATTR } from "../telemetry/attributes.ts";
import { NO_INSTRUMENTS, type Instruments } from "../telemetry/instruments.ts";
import { childSpan } from "../telemetry/trace.ts";
import { Commits } from "./commits.ts";
import { isDatabaseDown, isLockedOut, type Database } from "./database.ts";
import type { EventLog } from "./event-log.ts";
import type { Fence } from "./fence.ts";
import type { LocalCopy } from "./local-copy.ts";
import { disksElsewhere } from "./moved-disks.ts";
import { IdsTaken } from "./object-ids.ts";
import { Reachability } from "./reachability.ts";
import { rehearse } from "./rehearsal.ts";
import type { Rows } from "./rows.ts";
import { inSharedCommit } from "./shared-commit.ts";
import * as sql from "./statements.ts";
import { NO_STATUS, settle } from "./status-queue.ts";
import { StatusWriter } from "./status-writer.ts";
import * as tombstones from "./tombstones.ts";
import * as intents from "./waiting-intents.ts";
import type { Admitted, Waiting } from "./waiting-intents.ts";
import { commitDivided } from "./divided-commit.ts";
import { left, takeSpans, workSize, type Work } from "./work.ts";
import { writeWork } from "./write-work.ts";
import {
  COMMIT_INTENTS,
  COMMIT_RETRY_FIRST_MS,
  COMMIT_RETRY_LAST_MS,
  QUEUED_INTENTS,
} from "../limits.ts";

export type WriterOptions = {
  readonly database: Database;
  readonly rows: Rows;
  readonly policy: AdmissionPolicy;
  readonly fence: Pick<Fence, "epoch" | "hold" | "loseLease" | "databaseAway">;
  /** What was taken away is in the local copy before it is answered. */
  readonly copy?: Pick<LocalCopy, "keep">;
  /** Is told of each intent that was committed. */
  readonly events?: Pick<EventLog, "add">;
  readonly log: Logger;
  readonly instruments?: Instruments;
};

/** The database answers, and its rows cannot be read. */
export class RowsUnusable extends Error {
  constructor(cause: unknown) {
    super(cause instanceof Error ? cause.message : String(cause), { cause });
    this.name = "RowsUnusable";
  }
}

export class Writer extends StatusWriter {
  readonly #options: WriterOptions;
  readonly #instruments: Instruments;
  readonly reachability: Reachability;
  /** Whether what callers ask for can be committed. */
  readonly commits: Commits;
  readonly #mutations: Waiting[] = [];
  #scheduled = false;
  #running: Promise<void> | undefined;
  #retryMs = COMMIT_RETRY_FIRST_MS;
  #retryTimer: NodeJS.Timeout | undefined;
  /** The rows in memory may be outdated (a commit failed): read them before the next commit. */
  #stale = true;
  #closed = false;
  #onLeaseLost: () => void = () => {};
  /** Settles readAsLeader; undefined if it is not waiting. */
  #leaderRead: PromiseWithResolvers<void> | undefined;

  constructor(options: WriterOptions) {
    super(options.instruments ?? NO_INSTRUMENTS);
    this.#options = options;
    this.reachability = new Reachability(options.log);
    this.commits = new Commits(options.log);
    this.#instruments = options.instruments ?? NO_INSTRUMENTS;
  }

  /** Numbers of intents and of objects with status that wait for a transaction. */
  get queued(): { readonly intents: number; readonly records: number } {
    return { intents: this.#mutations.length, records: this.status.size };
  }

  /** Whether the last transaction reached the database. */
  get connected(): boolean {
    return this.reachability.connected;
  }

  onLeaseLost(listener: () => void): void {
    this.#onLeaseLost = listener;
  }

  /** Starts reading the rows; they are available once `connected` turns true. */
  start(): void {
    this.#schedule();
  }

  /** Reads the rows again: another process may have written them. */
  refresh(): void {
    this.#stale = true;
    this.#schedule();
  }

  /**
   * For the acquisition of the lease: resolves once the rows were read again; rejects if the database
   * cannot be reached, with RowsUnusable, and on abort.
   */
  readAsLeader(signal: AbortSignal): Promise<void> {
    const read = Promise.withResolvers<void>();
    this.#leaderRead = read;
    signal.addEventListener("abort", () => read.reject(signal.reason), { once: true });
    this.refresh();
    return read.promise;
  }

  /** A lease was acquired: shows that changes can be committed under it, before one is asked for. */
  proveCommits(): void {
    this.commits.doubt();
    this.#schedule();
  }

  /**
   * Admits and commits an intent. Throws a Refusal; DATABASE_DOWN if the database cannot be
   * reached, in which case the intent may or may not be committed and the call can be repeated.
   */
  async mutate(mutation: Mutation): Promise<Decision> {
    this.refuseIfUnavailable();
    const { kind, id } = mutation;
    const span = childSpan(this.#instruments.tracer, `commit ${kind}`, {
      attributes: { [ATTR.mutation]: kind, [ATTR.objectId]: id },
    });
    const admitted = await new Promise<Admitted>((resolve, reject) => {
      this.#mutations.push({ mutation, span, resolve, reject });
      this.#schedule();
    });
    if (admitted.written) intents.tell(this.#options, mutation, admitted);
    return admitted.decision;
  }

  /** Throws a Refusal if no transaction can be started now, or if too many intents wait for one. */
  refuseIfUnavailable(): void {
    if (this.#closed) throw intents.databaseDown("the agent is stopping");
    if (this.#mutations.length >= QUEUED_INTENTS) {
      const message = `too many changes wait for a commit; the limit is ${QUEUED_INTENTS}`;
      throw new Refusal("OVERLOADED", message, { retryAfterMs: 1_000 });
    }
    if (!this.connected && this.#retryTimer !== undefined) {
      throw intents.databaseDown("the database cannot be reached");
    }
    intents.refuseUnlessLeading(this.#options.fence, this.connected);
  }

  protected override recorded(done: Promise<boolean>): Promise<boolean> {
    if (this.#options.fence.databaseAway) this.endWaits();
    this.#schedule();
    return done;
  }

  /** The compacted tombstones of these lvols. Throws if the database cannot be reached. */
  findTombstones(
    lvols: readonly tombstones.UnknownLvol[],
  ): Promise<readonly tombstones.Tombstone[]> {
    return this.#options.database.transaction((client) => tombstones.findTombstones(client, lvols));
  }

  /** As disksElsewhere. Throws if the database cannot be reached. */
  disksElsewhere(disks: Parameters<typeof disksElsewhere>[2]): Promise<readonly DiskRow[]> {
    const { database, policy } = this.#options;
    return database.transaction((client) => disksElsewhere(client, policy.nodeId, disks));
  }

  /** Makes compacted tombstones rows of deleted volumes again; resolves true once they are committed. */
  async restoreTombstones(found: readonly tombstones.Tombstone[]): Promise<boolean> {
    const { policy } = this.#options;
    const rows = found.map((one) => tombstones.rowOfTombstone(one, policy, new Date()));
    const restored = rows.map((row) => this.recorded(this.status.restoreLvol(row)));
    return (await Promise.all(restored)).every(Boolean);
  }

  /** The database cannot be reached: nobody waits any longer for what is recorded. */
  endWaits(): void {
    this.status.endWaits();
  }

  /**
   * Records the process of the target in the node's row. It is committed with or before every pending op
   * that is recorded later, and kept and retried while the database cannot be reached.
   */
  recordTargetProcess(targetProcess: TargetProcess): void {
    this.status.setTargetProcess(targetProcess);
    this.#schedule();
  }

  #schedule(delayMs = 0): void {
    if (this.#scheduled || this.#running !== undefined || this.#closed) return;
    if (this.#retryTimer !== undefined) return;
    if (delayMs > 0) {
      this.#retryTimer = setTimeout(() => {
        this.#retryTimer = undefined;
        this.#schedule();
      }, delayMs);
      return;
    }
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      // The batch serves many callers: run it outside any one caller's trace context.
      this.#running = context
        .with(ROOT_CONTEXT, () => this.#cycle())
        .finally(() => {
          this.#running = undefined;
          const leads = this.#options.fence.epoch !== undefined;
          const records =
            this.commits.inDoubt ||
            this.status.size > 0 ||
            tombstones.oldTombstones(this.#options).length > 0;
          const more = this.#mutations.length > 0 || (leads && records) || this.#stale;
          const retry = this.#stale || (leads && this.commits.inDoubt);
          if (more) this.#schedule(retry ? this.#retryMs : 0);
        });
    });
  }

  get #nextRetryMs(): number {
    return Math.min(this.#retryMs * 2, COMMIT_RETRY_LAST_MS);
  }

  async #cycle(): Promise<void> {
    // In order. A part whose data the database refuses is divided until only the culprit is refused.
    const parts: Work[] = [{ ...NO_STATUS, intents: this.#mutations.splice(0, COMMIT_INTENTS) }];
    const { database, policy } = this.#options;
    this.commits.begin();
    try {
      if (this.#stale) await this.#load();
      const { epoch } = this.#options.fence;
      if (epoch === undefined) intents.refuse(left(parts), intents.notLeaseHolder());
      else {
        parts.push({ ...this.status.take(), intents: parts.pop()?.intents ?? [] });
        await this.#commitParts(parts, epoch);
        await this.commits.prove(() => rehearse(database, { ...policy, epoch }));
      }
      this.commits.end();
      this.#retryMs = this.commits.inDoubt ? this.#nextRetryMs : COMMIT_RETRY_FIRST_MS;
      this.reachability.reached();
    } catch (error) {
      for (const part of parts) this.status.putBack(part);
      this.#onFailed(parts, error);
    }
  }

  /** Keeps or refuses what was not committed, and decides how to go on. */
  #onFailed(parts: readonly Work[], error: unknown): void {
    this.commits.end();
    if (error instanceof sql.LeaseLost) {
      intents.refuse(left(parts), intents.notLeaseHolder());
      this.#options.fence.loseLease();
      this.#onLeaseLost();
      return;
    }
    const waiting = left(parts);
    if (error instanceof IdsTaken) {
      this.#mutations.unshift(...waiting);
      return;
    }
    this.#stale = true;
    if (error instanceof sql.RowsBehind) {
      this.#options.log.warn("rows were written by another process, reading them again");
      this.#mutations.unshift(...waiting);
      return;
    }
    this.#retryMs = this.#nextRetryMs;
    const down = isDatabaseDown(error) && !isLockedOut(error);
    if (down) this.reachability.unreachable();
    this.#leaderRead?.reject(down ? error : new RowsUnusable(error));
    this.#leaderRead = undefined;
    const isNew = this.commits.failed(error);
    const level = (down && !this.connected) || !isNew ? "debug" : "error";
    this.#options.log[level]({ err: error, mutations: waiting.length }, "transaction failed");
    intents.refuse([...waiting, ...this.#mutations.splice(0)], intents.failureOf(error));
  }

  async #commitParts(parts: Work[], epoch: bigint): Promise<void> {
    const { log } = this.#options;
    await commitDivided(parts, {
      log,
      commit: async (part) => {
        if (workSize(part) > 0 || tombstones.oldTombstones(this.#options).length > 0)
          await this.#commit(part, epoch);
      },
      onFaultOfAgent: () => this.commits.doubt(),
    });
  }

  async #load(): Promise<void> {
    const { database, policy, rows, fence } = this.#options;
    const leaderRead = this.#leaderRead;
    const all = await database.transaction((client) => sql.loadNode(client, policy.nodeId));
    // The revision decreased (database restored): give up the lease; acquiring it again decides
    // between hold and continue.
    const restored = all.node.revision < (rows.node?.revision ?? 0n);
    if (restored && fence.epoch !== undefined) throw new sql.LeaseLost();
    // A lease that was acquired during this read needs rows that are read after it.
    this.#stale = this.#leaderRead !== leaderRead;
    rows.replace(all);
    if (this.#stale) return;
    leaderRead?.resolve();
    this.#leaderRead = undefined;
  }

  async #commit(work: Work, epoch: bigint): Promise<void> {
    const { database, rows } = this.#options;
    const { metrics } = this.#instruments;
    const startMs = performance.now();
    const old = tombstones.oldTombstones(this.#options);
    try {
      const { outcomes, committed, applied } = await inSharedCommit(
        takeSpans(work),
        workSize(work),
        () =>
          database.transaction((client) =>
            writeWork(client, work, { ...this.#options, epoch, old }),
          ),
      );
      metrics.commit("ok", performance.now() - startMs);
      rows.apply(committed);
      settle(work, applied);
      intents.answer(outcomes, this.#options.copy);
    } catch (error) {
      metrics.commit("failed", performance.now() - startMs);
      throw error;
    }
  }

  /** Waits for the transaction in flight; then refuses the intents that still wait. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#retryTimer);
    await this.#running;
    intents.refuse(this.#mutations.splice(0), intents.databaseDown("the agent is stopping"));
  }
}
