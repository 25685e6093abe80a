// The local copy of what is wanted, kept by the agent that leads: what changed is appended soon after
// each commit, and what must never be undone (a host that was revoked, a deletion) before the commit is
// answered. An agent that starts while the database is away restores from it.
//
// It never keeps a copy that it could not bring up to date: that one could let a revoked host in.
import type { Logger } from "pino";
import type { CopyFile } from "../local/copy-file.ts";
import {
  completeLines,
  copyLine,
  parseCopy,
  type Copy,
  type CopyHeader,
} from "../local/copy-format.ts";
import { unlikeRemembered, type LocalMemory, type Remembered } from "../local/local-memory.ts";
import { COPY_COMPACT_BYTES, COPY_RETRY_MS } from "../limits.ts";
import { Component, type StoreStatus } from "./component.ts";
import { copiedDisk, copiedVolume } from "./copied-rows.ts";
import type { Rows } from "./rows.ts";

export type LocalCopyOptions = {
  readonly file: Pick<CopyFile, "path" | "read" | "replace" | "append" | "sync" | "invalidate">;
  readonly rows: Rows;
  readonly node: { readonly nodeId: string; readonly fleet: string; readonly nqnPrefix: string };
  readonly log: Logger;
};

type Waiting = PromiseWithResolvers<void>;

export class LocalCopy implements AsyncDisposable {
  readonly #options: LocalCopyOptions;
  readonly #status = new Component("not written yet");
  readonly #unsubscribe: () => void;
  /** Undefined: this agent does not lead, and leaves the file alone. */
  #epoch: bigint | undefined;
  /** The last line about each object. */
  readonly #lines = new Map<string, string>();
  #liveBytes = 0;
  #fileBytes = 0;
  readonly #dirty = new Set<string>();
  /** The file does not hold all lines: it has to be replaced. */
  #whole = true;
  readonly #waiting: Waiting[] = [];
  #running: Promise<void> | undefined;
  #retryTimer: NodeJS.Timeout | undefined;
  #invalidated = false;
  /** The last attempt to bring the file up to date succeeded. */
  #kept = false;

  constructor(options: LocalCopyOptions) {
    this.#options = options;
    this.#unsubscribe = options.rows.subscribe((changes) => {
      if (this.#epoch === undefined) return;
      for (const { id } of changes) this.#dirty.add(id);
      this.#schedule();
    });
  }

  get status(): StoreStatus {
    return this.#status.status;
  }

  /**
   * The copy as it lies there; undefined if there is none or it must not be used, which the status
   * says. The local lock must be held.
   */
  read(memory: Pick<LocalMemory, "read">): Copy | undefined {
    const { file, node } = this.#options;
    try {
      const remembered = memory.read();
      const copy = parseCopy(file.read());
      const against = copy === undefined ? "there is none" : notOurs(copy.header, node, remembered);
      if (against === undefined) return copy;
      this.#status.set(false, against);
    } catch (error) {
      this.#status.set(false, `${file.path} cannot be used: ${messageOf(error)}`);
    }
    return undefined;
  }

  /** Rows come from this copy, which says so in health. */
  restored({ time, hold }: CopyHeader): void {
    const what = hold === undefined ? "" : `, on hold, nothing is restored from it: ${hold}`;
    this.#status.set(false, `rows are those of the local copy of ${time.toISOString()}${what}`);
  }

  /** This agent leads: the copy is made anew and kept. Resolves and rejects as `keep`. */
  lead(epoch: bigint): Promise<void> {
    this.#epoch = epoch;
    this.#whole = true;
    clearTimeout(this.#retryTimer);
    this.#retryTimer = undefined;
    return this.keep();
  }

  /**
   * Resolves once everything that was committed is in the copy and outlasts a power failure, or the
   * copy is invalid; rejects if an older copy is there and could not be invalidated.
   */
  keep(): Promise<void> {
    if (this.#epoch === undefined) return Promise.resolve();
    const waiting = Promise.withResolvers<void>();
    this.#waiting.push(waiting);
    this.#schedule();
    return waiting.promise;
  }

  /** This agent does not lead any more; what became of the lease is not known yet. */
  pause(): void {
    this.#epoch = undefined;
  }

  /** Another agent leads and changes what is wanted: this copy is out of date. */
  async standDown(): Promise<void> {
    this.pause();
    await this.#running;
    if (await this.#isInvalidated()) this.#status.set(false, "not written: another agent leads");
  }

  /** The node is on hold: the copy keeps what it knows, and nothing is restored from it. */
  async hold(reason: string, epoch: bigint): Promise<void> {
    const { file, node } = this.#options;
    this.pause();
    await this.#running;
    this.#status.set(false, `on hold: ${reason}`);
    try {
      const text = completeLines(file.read());
      const known = parseCopy(text)?.header;
      const ours = known !== undefined && notOurs(known, node) === undefined;
      const header = { ...(ours ? known : this.#header(epoch)), hold: reason };
      await file.replace((ours ? text : "") + copyLine({ header }));
      this.#invalidated = false;
    } catch (error) {
      this.#options.log.error({ err: error }, "the local copy cannot be put on hold, dropping it");
      await this.#isInvalidated();
    }
  }

  #schedule(): void {
    if (this.#running !== undefined) return;
    this.#running = Promise.resolve()
      .then(() => this.#run())
      .finally(() => {
        this.#running = undefined;
        if (this.#waiting.length > 0 || this.#unwritten) this.#schedule();
      });
  }

  get #unwritten(): boolean {
    if (this.#epoch === undefined || this.#retryTimer !== undefined) return false;
    return this.#whole || this.#dirty.size > 0;
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0 || this.#unwritten) {
      const waiting = this.#waiting.splice(0);
      const epoch = this.#epoch;
      if (epoch !== undefined) await this.#bringUpToDate(epoch, waiting.length > 0);
      for (const { resolve, reject } of waiting) {
        if (epoch === undefined || this.#kept || this.#invalidated) resolve();
        else reject(new Error(`${this.#options.file.path} ${this.#status.status.reason}`));
      }
    }
  }

  async #bringUpToDate(epoch: bigint, sync: boolean): Promise<void> {
    this.#kept = false;
    if (this.#retryTimer !== undefined) {
      await this.#isInvalidated();
      return;
    }
    try {
      await this.#write(epoch, sync);
      this.#kept = true;
    } catch (error) {
      await this.#failed(error);
    }
  }

  async #write(epoch: bigint, sync: boolean): Promise<void> {
    const { file } = this.#options;
    const changed = this.#takeChanges();
    if (this.#whole) {
      const header = copyLine({ header: this.#header(epoch) });
      const text = [header, ...this.#lines.values()].join("");
      await file.replace(text);
      this.#whole = false;
      this.#invalidated = false;
      this.#fileBytes = text.length;
    } else if (changed !== "" || sync) {
      const text = changed + copyLine({ header: this.#header(epoch) });
      await file.append(text);
      this.#fileBytes += text.length;
      if (sync) await file.sync();
    }
    this.#whole = this.#fileBytes > Math.max(COPY_COMPACT_BYTES, 2 * this.#liveBytes);
    this.#status.set(true, "");
  }

  /** Brings the lines up to date with the rows; returns what has to be appended for it. */
  #takeChanges(): string {
    const { rows } = this.#options;
    if (this.#whole) {
      for (const { id } of rows.disks()) this.#dirty.add(id);
      for (const { id } of rows.lvols()) this.#dirty.add(id);
      for (const id of this.#lines.keys()) this.#dirty.add(id);
    }
    const appended: string[] = [];
    for (const id of this.#dirty) {
      const before = this.#lines.get(id);
      const line = this.#lineOf(id);
      if (line === before) continue;
      this.#liveBytes += (line?.length ?? 0) - (before?.length ?? 0);
      if (line === undefined) this.#lines.delete(id);
      else this.#lines.set(id, line);
      appended.push(line ?? copyLine({ removed: id }));
    }
    this.#dirty.clear();
    return appended.join("");
  }

  /** Undefined: the object is not there any more. */
  #lineOf(id: string): string | undefined {
    const { rows } = this.#options;
    const disk = rows.disk(id);
    if (disk !== undefined) return copyLine({ disk: copiedDisk(disk) });
    const lvol = rows.lvol(id);
    if (lvol === undefined || lvol.deleteTime !== undefined) return undefined;
    return copyLine({ volume: copiedVolume(lvol) });
  }

  #header(epoch: bigint): CopyHeader {
    const { rows, node } = this.#options;
    const { nodeId, fleet, nqnPrefix } = node;
    const revision = rows.node?.revision ?? 0n;
    const { targetProcess } = rows.node ?? {};
    const at = { epoch, revision, targetProcess, time: new Date() };
    return { version: 1, nodeId, fleet, nqnPrefix, ...at };
  }

  /** The copy is behind what is committed: it is invalidated, and made anew a while later. */
  async #failed(error: unknown): Promise<void> {
    this.#options.log.error({ err: error }, "cannot write the local copy");
    this.#status.set(false, `cannot be written, nothing is restored from it: ${messageOf(error)}`);
    this.#whole = true;
    this.#retryTimer ??= setTimeout(() => {
      this.#retryTimer = undefined;
      this.#schedule();
    }, COPY_RETRY_MS).unref();
    await this.#isInvalidated();
  }

  /** Invalidates the file unless that was done; false if it could not be done, see status. */
  async #isInvalidated(): Promise<boolean> {
    const { file, log } = this.#options;
    try {
      if (!this.#invalidated) await file.invalidate();
      this.#invalidated = true;
    } catch (error) {
      log.error({ err: error }, "the local copy is out of date and cannot be removed");
      this.#status.set(false, `is out of date and cannot be removed: ${messageOf(error)}`);
    }
    return this.#invalidated;
  }

  /** Waits for what is being written; the file stays as it is. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#unsubscribe();
    clearTimeout(this.#retryTimer);
    await this.#running;
  }
}

function notOurs(
  header: CopyHeader,
  node: LocalCopyOptions["node"],
  remembered?: Remembered,
): string | undefined {
  for (const name of ["nodeId", "fleet", "nqnPrefix"] as const) {
    if (header[name] === node[name]) continue;
    return `the local copy is that of ${name} "${header[name]}", this is "${node[name]}"`;
  }
  if (unlikeRemembered(remembered, header) === undefined) return undefined;
  return `the local copy is older than what this node remembers (revision ${header.revision})`;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
