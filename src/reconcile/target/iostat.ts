// The loop iostat: reads the I/O counters of volumes and disks for all who want them, with one call to
// the target per interval, however many readers there are and whatever they want to see. Without
// readers it asks nothing.
//
// It never waits for a reader, never has two calls under way, and never changes the target: not even
// reset_mode, which would zero the counters of everybody else.
import { context, ROOT_CONTEXT } from "@opentelemetry/api";
import type { Logger } from "pino";
import {
  IOSTAT_FRESH_MS,
  IOSTAT_MIN_MS,
  IOSTAT_OVERDUE_MS,
  IOSTAT_RETRY_MS,
  IOSTAT_WAIT_MS,
} from "../../limits.ts";
import {
  beganAnew,
  ticksToNs,
  type IoReading,
  type IostatFilter,
  type IostatReader,
  type IoSubject,
} from "../../model/iostat.ts";
import type { LvolRow } from "../../model/lvol.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import { SpdkError, SpdkUnknownOutcome } from "../../spdk/errors.ts";
import type { BdevIostat, IoCounters, Iostat } from "../../spdk/replies-bdev.ts";
import type { Rows } from "../../store/rows.ts";
import type { Instruments } from "../../telemetry/instruments.ts";
import type { LoopStatus } from "../engine/kind.ts";
import { IostatReaders } from "./iostat-readers.ts";
import type { Observed } from "./observed.ts";

export type IostatOptions = {
  readonly spdk: Pick<SpdkClient, "bdevGetIostat">;
  readonly rows: Pick<Rows, "lvol" | "lvols" | "lvolIdsOn" | "disks" | "subscribe">;
  readonly observed: Pick<Observed, "incarnation" | "volume" | "disk" | "setLvol">;
  readonly log: Logger;
  readonly instruments: Pick<Instruments, "metrics">;
  readonly scanDisks: () => Promise<void>;
};

/** What is to be read from the target, by the name of the bdev. */
type Subjects = ReadonlyMap<string, IoSubject>;

export class IostatLoop {
  readonly #options: IostatOptions;
  readonly #readers = new IostatReaders();
  /** The last reading of each subject, also of an earlier incarnation, to tell when it began anew. */
  readonly #readings = new Map<string, IoReading>();
  #sample = 0;
  #sampleTime = new Date(0);
  #timer: NodeJS.Timeout | undefined;
  /** When the next sample is due, on the monotonic clock. */
  #nextMs = 0;
  #lastCallMs = Number.NEGATIVE_INFINITY;
  /** The samples that were begun: they follow one another. */
  #sampling: Promise<unknown> | undefined;
  /** A call that timed out and may still be answered: no other is sent meanwhile. */
  #overdue = false;
  #status: Omit<LoopStatus, "name" | "steps"> = {
    passes: 0,
    lastReason: undefined,
    lastPassTime: undefined,
    lastDurationMs: 0,
    lastError: undefined,
  };
  readonly #unsubscribe: () => void;
  #closed = false;

  constructor(options: IostatOptions) {
    this.#options = options;
    const { rows } = options;
    this.#unsubscribe = rows.subscribe((changes) => {
      for (const { kind, id } of changes) {
        if (kind !== "lvol") continue;
        const row = rows.lvol(id);
        if (row === undefined || row.deleteTime !== undefined) this.#readings.delete(id);
      }
    });
  }

  get status(): LoopStatus {
    return { name: "iostat", steps: 0, ...this.#status };
  }

  /** Number of readers now. */
  get readers(): number {
    return this.#readers.size;
  }

  /**
   * Gives the reader its first frame at once if it is the only one, else with the next sample, and
   * then each that is due, until the returned function is called.
   */
  subscribe(reader: IostatReader): () => void {
    const now = performance.now();
    const isFirst = this.#readers.size === 0;
    const remove = this.#readers.add(reader);
    const soonest = isFirst ? now : Math.min(this.#nextMs, now + this.#readers.shortestMs);
    // A tick that is under way arms the next one itself.
    if (this.#timer !== undefined || isFirst) this.#arm(soonest);
    return () => {
      remove();
      if (this.#readers.size > 0) return;
      clearTimeout(this.#timer);
      this.#timer = undefined;
    };
  }

  /** The last reading of a volume or a disk in this incarnation of the target. */
  latest(kind: "lvol" | "disk", id: string): IoReading | undefined {
    const reading = this.#readings.get(kind === "lvol" ? id : keyOfDisk(id));
    return reading !== undefined && this.#isPresent(reading) ? reading : undefined;
  }

  /**
   * Readings of one who asks once (a scrape): the last ones if they are fresh, otherwise those of a
   * sample that is taken now. Without those that cannot be had.
   */
  async current(filter: IostatFilter): Promise<readonly IoReading[]> {
    await this.#enqueue(async () => {
      const subjects = this.#subjectsOf(filter);
      if (this.#freshOf(subjects).length < subjects.length) await this.#take(byName(subjects));
    });
    return this.#freshOf(this.#subjectsOf(filter));
  }

  /** A reader was too slow for a frame. */
  countDropped(): void {
    this.#options.instruments.metrics.iostatDropped();
  }

  /** Events of the target: what counts next under these names has begun anew. */
  bdevsUnregistered(names: ReadonlySet<string>): void {
    for (const [key, reading] of this.#readings) {
      if (!names.has(reading.bdevName)) continue;
      this.#readings.set(key, { ...reading, incarnation: undefined });
    }
  }

  stop(): void {
    this.#closed = true;
    this.#unsubscribe();
    clearTimeout(this.#timer);
  }

  #arm(atMs: number): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#closed || this.#readers.size === 0) return;
    const now = performance.now();
    this.#nextMs = Math.max(atMs, this.#lastCallMs + IOSTAT_MIN_MS);
    // Outside the trace of the call that subscribed: a sample serves all readers.
    this.#timer = context.with(ROOT_CONTEXT, () =>
      setTimeout(() => void this.#tick(), Math.max(0, this.#nextMs - now)).unref(),
    );
  }

  async #tick(): Promise<void> {
    this.#timer = undefined;
    const tickMs = this.#nextMs;
    const due = this.#readers.due(tickMs);
    let taken = true;
    if (due.length > 0) {
      taken = await this.#enqueue(async () => {
        const groups = due.map((group) => ({ ...group, subjects: this.#subjectsOf(group.filter) }));
        if (!(await this.#take(byName(groups.flatMap(({ subjects }) => subjects))))) return false;
        for (const { subjects, deliver } of groups) deliver(this.#frameOf(subjects), tickMs);
        return true;
      });
    }
    const now = performance.now();
    const { shortestMs } = this.#readers;
    if (!taken) this.#arm(now + Math.min(shortestMs, IOSTAT_RETRY_MS));
    // A target that is slower than the interval is not asked back to back.
    else this.#arm(tickMs + shortestMs >= now ? tickMs + shortestMs : now + shortestMs);
  }

  /** Runs samples one after another; never rejects. */
  async #enqueue<T>(work: () => Promise<T>): Promise<T> {
    const before = this.#sampling;
    const mine = before === undefined ? work() : before.then(work, work);
    this.#sampling = mine;
    try {
      return await mine;
    } finally {
      if (this.#sampling === mine) this.#sampling = undefined;
    }
  }

  /** Takes one sample. False: the target is away, or did not answer as it should. */
  async #take(subjects: Subjects): Promise<boolean> {
    const { incarnation } = this.#options.observed;
    if (incarnation === undefined || this.#overdue) return false;
    const startMs = performance.now();
    this.#lastCallMs = startMs;
    let answer: Iostat;
    try {
      answer = await this.#read(subjects);
    } catch (error) {
      this.#failed(error);
      return false;
    }
    // Answered by a process that is gone: the counters of the next one have nothing to do with it.
    if (this.#options.observed.incarnation !== incarnation) return false;
    this.#apply(subjects, answer, incarnation);
    this.#status = {
      passes: this.#sample,
      lastReason: "period",
      lastPassTime: new Date(),
      lastDurationMs: performance.now() - startMs,
      lastError: undefined,
    };
    return true;
  }

  async #read(subjects: Subjects): Promise<Iostat> {
    const { spdk } = this.#options;
    // A volume-less node: SPDK is not asked for nothing.
    if (subjects.size === 0) return { tickRate: 0n, ticks: 0n, bdevs: [] };
    const options = { waitMs: IOSTAT_WAIT_MS };
    try {
      return await spdk.bdevGetIostat([...subjects.keys()], options);
    } catch (error) {
      // One unknown name fails the call. Without a filter the answer also shows which name it is.
      if (!(error instanceof SpdkError && error.kind === "absent")) throw error;
      return await spdk.bdevGetIostat(undefined, options);
    }
  }

  #failed(error: unknown): void {
    const message = error instanceof Error ? error.message : String(error);
    this.#status = { ...this.#status, lastError: message };
    this.#options.log.debug({ err: error }, "cannot read the I/O counters of the SPDK target");
    if (!(error instanceof SpdkUnknownOutcome)) return;
    this.#overdue = true;
    const end = () => {
      clearTimeout(limit);
      this.#overdue = false;
    };
    const limit = setTimeout(end, IOSTAT_OVERDUE_MS).unref();
    void error.settled.then(end);
  }

  #apply(subjects: Subjects, { tickRate, bdevs }: Iostat, incarnation: string): void {
    this.#sample += 1;
    this.#sampleTime = new Date();
    const now = { incarnation, sample: this.#sample, time: this.#sampleTime };
    const missing = new Map(subjects);
    for (const bdev of bdevs) {
      const subject = subjects.get(bdev.name);
      if (subject === undefined) continue;
      missing.delete(bdev.name);
      this.#set({ ...subject, ...totalsOf(bdev, tickRate), ...now });
    }
    if (missing.size > 0) this.#observeAgain([...missing.values()]);
  }

  /** The target does not have these any more: what was observed of them is out of date. */
  #observeAgain(subjects: readonly IoSubject[]): void {
    const { rows, observed, scanDisks, log } = this.#options;
    for (const { lvolId } of subjects) {
      // The agent itself deletes the lvol of a volume whose deletion was requested.
      if (lvolId === undefined || rows.lvol(lvolId)?.deleteRequestedTime !== undefined) continue;
      observed.setLvol(lvolId, undefined);
    }
    if (subjects.every(({ lvolId }) => lvolId !== undefined)) return;
    scanDisks().catch((error: unknown) => {
      log.debug({ err: error }, "cannot list the disks on the SPDK target");
    });
  }

  #set(now: Omit<IoReading, "resetSample">): void {
    const key = now.lvolId ?? keyOfDisk(now.diskId);
    const before = this.#readings.get(key);
    const isReset = before !== undefined && beganAnew(before, now);
    const resetSample = isReset ? now.sample : (before?.resetSample ?? 0);
    this.#readings.set(key, { ...now, resetSample });
  }

  #frameOf(subjects: readonly IoSubject[]) {
    const sample = this.#sample;
    const readings = subjects.flatMap((subject) => {
      const reading = this.#readings.get(keyOf(subject));
      return reading?.sample === sample ? reading : [];
    });
    return { sample, time: this.#sampleTime, readings };
  }

  #freshOf(subjects: readonly IoSubject[]): readonly IoReading[] {
    const oldest = Date.now() - IOSTAT_FRESH_MS;
    return subjects.flatMap((subject) => {
      const reading = this.#readings.get(keyOf(subject));
      if (reading === undefined || !this.#isPresent(reading)) return [];
      return reading.time.getTime() > oldest ? reading : [];
    });
  }

  #isPresent({ incarnation }: IoReading): boolean {
    return incarnation !== undefined && incarnation === this.#options.observed.incarnation;
  }

  #subjectsOf({ lvolIds, diskIds, includeDisks }: IostatFilter): readonly IoSubject[] {
    const { rows, observed } = this.#options;
    const isWanted = diskIds === "all" ? () => true : within(diskIds);
    const volumes = [...this.#rowsOf(lvolIds, diskIds)].flatMap((row) => {
      return isWanted(row.diskId) ? (volumeSubject(row, observed) ?? []) : [];
    });
    if (!includeDisks) return volumes;
    const disks = [...rows.disks()].flatMap(({ id }) => {
      const disk = isWanted(id) ? observed.disk(id) : undefined;
      return disk ? { lvolId: undefined, diskId: id, bdevName: disk.bdevName } : [];
    });
    return [...volumes, ...disks];
  }

  #rowsOf(lvolIds: IostatFilter["lvolIds"], diskIds: IostatFilter["diskIds"]): Iterable<LvolRow> {
    const { rows } = this.#options;
    if (lvolIds === "none") return [];
    if (lvolIds !== "all") return lvolIds.flatMap((id) => rows.lvol(id) ?? []);
    if (diskIds === "all") return rows.lvols();
    return diskIds.flatMap((disk) =>
      [...rows.lvolIdsOn(disk)].flatMap((id) => rows.lvol(id) ?? []),
    );
  }
}

/** Undefined: the target has no lvol of the volume, or the volume is about to be deleted. */
function volumeSubject(row: LvolRow, observed: IostatOptions["observed"]): IoSubject | undefined {
  if (row.deleteTime !== undefined || row.unexportedTime !== undefined) return undefined;
  const { lvol } = observed.volume(row.id);
  if (lvol?.kind !== "present") return undefined;
  return { lvolId: row.id, diskId: row.diskId, bdevName: lvol.uuid };
}

function totalsOf(
  { read, write }: BdevIostat,
  tickRate: bigint,
): Pick<IoReading, "read" | "write"> {
  const totals = ({ bytes, operations, latencyTicks }: IoCounters) => ({
    bytes,
    operations,
    latencyNs: ticksToNs(latencyTicks, tickRate),
  });
  return { read: totals(read), write: totals(write) };
}

function byName(subjects: readonly IoSubject[]): Subjects {
  return new Map(subjects.map((subject) => [subject.bdevName, subject]));
}

function within(ids: readonly string[]): (id: string) => boolean {
  const wanted = new Set(ids);
  return (id) => wanted.has(id);
}

function keyOf({ lvolId, diskId }: IoSubject): string {
  return lvolId ?? keyOfDisk(diskId);
}

/** The id of a disk could be that of a volume, which callers choose. */
function keyOfDisk(id: string): string {
  return `disk ${id}`;
}
