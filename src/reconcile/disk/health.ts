// The loop disk-health: reads the health page of each attached controller once a minute, spread over
// that minute, and judges the disks on it (model/disk-health.ts). It never changes anything on the
// target, and holds no lane: the call does not block the target, and a controller that hangs may
// never answer it (docs/spdk-contract.md#detach-states-and-health).
//
// A controller whose call was not answered is not asked again before it is; until then each look finds
// that there is no page. A target that is away, or answers nothing at all, says nothing of its disks:
// what was seen last stays, and gets older.
import { context, ROOT_CONTEXT } from "@opentelemetry/api";
import type { Logger } from "pino";
import type { Config } from "../../config.ts";
import { HEALTH_TICK_MS } from "../../limits.ts";
import {
  healthOf,
  judge,
  reasonsOf,
  rememberedHealth,
  type HealthLook,
  type HealthMemory,
  type HealthPage,
} from "../../model/disk-health.ts";
import type { DiskRow } from "../../model/disk.ts";
import { healthText, type SeenHealth } from "../../model/seen-health.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import { SpdkError, SpdkUnknownOutcome } from "../../spdk/errors.ts";
import type { Controller, ControllerHealth } from "../../spdk/replies-bdev.ts";
import type { Rows } from "../../store/rows.ts";
import type { Kernel } from "../../sysfs/kernel.ts";
import { readPcieLink } from "../../sysfs/pcie-link.ts";
import type { LoopStatus } from "../engine/kind.ts";
import type { Observed } from "../target/observed.ts";
import { healthPatch } from "./health-record.ts";
import { firstDue, nextDue } from "./health-schedule.ts";

export type HealthLoopOptions = {
  readonly config: Pick<Config, "healthThresholds">;
  readonly spdk: Pick<SpdkClient, "bdevNvmeGetControllerHealthInfo" | "getController">;
  readonly kernel: Kernel;
  readonly rows: Pick<Rows, "disk" | "disks">;
  readonly observed: Pick<Observed, "incarnation" | "disk">;
  readonly log: Logger;
  readonly healthMs: number;
  readonly healthWaitMs: number;
  /** What was seen of the disk is to be recorded. */
  readonly onChange: (diskId: string) => void;
};

type Known = { readonly memory: HealthMemory; readonly time: Date };

/** What a controller answered; serial undefined: no page says whose it is. */
type Answer = Pick<HealthLook, "page" | "pageRefused" | "controller"> & {
  readonly serial: string | undefined;
};

export class HealthLoop {
  readonly #options: HealthLoopOptions;
  /** By id of the disk. */
  readonly #known = new Map<string, Known>();
  /** When each controller is due, on the monotonic clock. */
  readonly #dueMs = new Map<string, number>();
  /** Controllers that are being looked at, and those whose page was asked for and has not come yet. */
  readonly #looking = new Set<string>();
  readonly #overdue = new Set<string>();
  #timer: NodeJS.Timeout | undefined;
  #status: Omit<LoopStatus, "name" | "steps"> = {
    passes: 0,
    lastReason: undefined,
    lastPassTime: undefined,
    lastDurationMs: 0,
    lastError: undefined,
  };

  constructor(options: HealthLoopOptions) {
    this.#options = options;
  }

  get status(): LoopStatus {
    return { name: "disk-health", steps: 0, ...this.#status };
  }

  /** As last seen by this agent; undefined: it has not looked at the disk yet. */
  seen(diskId: string): SeenHealth | undefined {
    const known = this.#known.get(diskId);
    if (known === undefined) return undefined;
    const { memory, time } = known;
    return { health: healthOf(memory), reasons: reasonsOf(memory), sample: memory.sample, time };
  }

  start(): void {
    const tickMs = Math.min(HEALTH_TICK_MS, this.#options.healthMs / 4);
    // Outside the trace of whatever started it: no intent asks for a health page.
    this.#timer = context.with(ROOT_CONTEXT, () => setInterval(() => this.#tick(), tickMs));
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #tick(): void {
    const controllers = this.#controllers();
    // A target that is back is not asked for all pages at once.
    if (controllers === undefined) return;
    const { healthMs } = this.#options;
    const now = performance.now();
    for (const name of this.#dueMs.keys()) if (!controllers.has(name)) this.#dueMs.delete(name);
    for (const [name, disks] of controllers) {
      const due = this.#dueMs.get(name) ?? firstDue(name, now, healthMs);
      this.#dueMs.set(name, due);
      if (due > now || this.#looking.has(name)) continue;
      this.#dueMs.set(name, nextDue(name, now, healthMs));
      void this.#look(name, disks);
    }
  }

  /**
   * Disks by the name of their controller: as observed, else as recorded, as SPDK may have given it up.
   * Undefined: the target is away.
   */
  #controllers(): ReadonlyMap<string, readonly DiskRow[]> | undefined {
    const { rows, observed } = this.#options;
    if (observed.incarnation === undefined) return undefined;
    const all = [...rows.disks()];
    const attached = all.flatMap((row) => {
      const name = observed.disk(row.id)?.controllerName;
      return name === undefined ? [] : [{ row, name }];
    });
    const taken = new Set(attached.map(({ name }) => name));
    const others = all.flatMap((row) => {
      const name = row.controllerName;
      const isFree = name !== undefined && !taken.has(name);
      return isFree && observed.disk(row.id) === undefined ? [{ row, name }] : [];
    });
    const grouped = Map.groupBy([...attached, ...others], ({ name }) => name);
    return new Map([...grouped].map(([name, disks]) => [name, disks.map(({ row }) => row)]));
  }

  async #look(name: string, disks: readonly DiskRow[]): Promise<void> {
    const { observed, log } = this.#options;
    const { incarnation } = observed;
    const started = performance.now();
    this.#looking.add(name);
    try {
      const answer = await this.#ask(name);
      if (answer === undefined || observed.incarnation !== incarnation) return;
      await Promise.all(disks.map((row) => this.#take(row, answer)));
      const unreadable = disks.find(({ id }) => this.#lacksPage(id));
      this.#setError(disks, unreadable && "its health page cannot be read any more");
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      this.#setError(disks, message);
      log.debug({ err: error, controller: name }, "cannot read the health page of a controller");
    } finally {
      this.#status = {
        ...this.#status,
        passes: this.#status.passes + 1,
        lastReason: "period",
        lastPassTime: new Date(),
        lastDurationMs: performance.now() - started,
      };
      this.#looking.delete(name);
    }
  }

  /** Undefined: nothing follows for its disks. */
  async #ask(name: string): Promise<Answer | undefined> {
    const { spdk, healthWaitMs: waitMs } = this.#options;
    if (!this.#overdue.has(name)) {
      try {
        const read = await spdk.bdevNvmeGetControllerHealthInfo(name, { waitMs });
        const { serialNumber: serial } = read;
        return { page: pageOf(read), pageRefused: false, controller: "enabled", serial };
      } catch (error) {
        if (error instanceof SpdkError && error.kind === "absent") return undefined;
        if (error instanceof SpdkUnknownOutcome && error.reason === "timeout") {
          this.#overdue.add(name);
          void error.settled.finally(() => this.#overdue.delete(name));
        } else if (!(error instanceof SpdkError)) throw error;
      }
    }
    // If the target answers this, it is the controller that gives no page.
    const found = await spdk.getController(name, { waitMs });
    if (found === undefined) return undefined;
    return { page: undefined, pageRefused: true, controller: stateOf(found), serial: undefined };
  }

  async #take(row: DiskRow, { serial, ...answer }: Answer): Promise<void> {
    if (serial !== undefined && serial !== row.serial) return;
    const { config, kernel, rows, log, onChange } = this.#options;
    const isPcie = row.transport === "PCIe";
    // What cannot be read of the link is not known, and keeps nothing else from being judged.
    const link = isPcie
      ? await readPcieLink(kernel, row.address).catch(() => undefined)
      : undefined;
    const present = rows.disk(row.id);
    if (present === undefined) return;
    const before = this.#known.get(row.id)?.memory ?? rememberedHealth(present);
    const look = { time: new Date(), link, ...answer };
    const memory = judge(before, look, config.healthThresholds);
    this.#known.set(row.id, { memory, time: look.time });
    const seen = this.seen(row.id);
    if (seen === undefined) return;
    if (healthOf(before) !== seen.health) {
      const level = seen.health === "OK" ? "info" : "warn";
      const facts = { disk: row.id, serial: row.serial, health: seen.health };
      log[level]({ ...facts, reason: healthText(seen) }, "health of a disk changed");
    }
    if (Object.keys(healthPatch({ row: present, health: seen })).length > 0) onChange(row.id);
  }

  #lacksPage(diskId: string): boolean {
    return this.seen(diskId)?.reasons.includes("PAGE_UNREADABLE") === true;
  }

  /** Errors begin with the id of the disk, as those of the other loops. */
  #setError([disk]: readonly DiskRow[], message: string | undefined): void {
    if (disk === undefined) return;
    const { lastError } = this.#status;
    if (message !== undefined) {
      this.#status = { ...this.#status, lastError: `${disk.id}: ${message}` };
    } else if (lastError?.startsWith(`${disk.id}: `) === true) {
      this.#status = { ...this.#status, lastError: undefined };
    }
  }
}

function stateOf({ paths }: Controller): HealthLook["controller"] {
  if (paths.some(({ state }) => state === "enabled")) return "enabled";
  return paths.some(({ state }) => state === "failed") ? "failed" : "resetting";
}

/** Undefined: nothing in it was filled in, as by a target that serves no drive of its own. */
function pageOf(read: ControllerHealth): HealthPage | undefined {
  const counters = [
    read.dataUnitsRead,
    read.dataUnitsWritten,
    read.hostReadCommands,
    read.hostWriteCommands,
    read.powerCycles,
    read.powerOnHours,
    read.mediaErrors,
    read.errorLogEntries,
  ];
  const page: HealthPage = {
    criticalWarning: read.criticalWarning,
    temperatureCelsius: read.temperatureCelsius,
    sparePercent: read.availableSparePercentage,
    spareThresholdPercent: read.availableSpareThresholdPercentage,
    usedPercent: read.percentageUsed,
    mediaErrors: read.mediaErrors,
    errorLogEntries: read.errorLogEntries,
    powerOnHours: read.powerOnHours,
    unsafeShutdowns: read.unsafeShutdowns,
  };
  const isEmpty =
    page.temperatureCelsius === undefined &&
    [page.criticalWarning, page.sparePercent, page.usedPercent].every((value) => value === 0) &&
    counters.every((count) => count === 0n);
  return isEmpty ? undefined : page;
}
