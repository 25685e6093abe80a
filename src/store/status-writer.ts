// What loops record: queued for the next transaction of the writer.
import type { Span, Tracer } from "@opentelemetry/api";
import type { ControllerRow, ControllerStatusPatch } from "../model/controller.ts";
import type { DiskRow, DiskStatusPatch } from "../model/disk.ts";
import type { LvolRow, LvolStatusPatch } from "../model/lvol.ts";
import type { SnapshotRow, SnapshotStatusPatch } from "../model/snapshot.ts";
import { ATTR } from "../telemetry/attributes.ts";
import type { Instruments } from "../telemetry/instruments.ts";
import { childSpan } from "../telemetry/trace.ts";
import type { RowChange } from "./rows.ts";
import { StatusQueue } from "./status-queue.ts";

export abstract class StatusWriter {
  protected readonly status = new StatusQueue();
  readonly #tracer: Tracer;

  constructor({ tracer }: Pick<Instruments, "tracer">) {
    this.#tracer = tracer;
  }

  /** Something was queued: schedules a transaction. Returns what resolves once it is committed. */
  protected abstract recorded(done: Promise<boolean>): Promise<boolean>;

  /**
   * Records what was observed of a volume at this generation. Resolves true once committed, false
   * if the generation has changed since (observe again). The record is kept and retried while the
   * database cannot be reached; who waits for it is told false at once.
   */
  recordLvol(row: Pick<LvolRow, "id" | "generation">, patch: LvolStatusPatch): Promise<boolean> {
    return this.recorded(this.status.addLvol(row, patch, this.#recordSpan("lvol", row.id)));
  }

  /** As recordLvol, for a snapshot. */
  recordSnapshot(
    row: Pick<SnapshotRow, "id" | "generation">,
    patch: SnapshotStatusPatch,
  ): Promise<boolean> {
    const span = this.#recordSpan("snapshot", row.id);
    return this.recorded(this.status.addSnapshot(row, patch, span));
  }

  /** As recordLvol, for a disk. */
  recordDisk(row: Pick<DiskRow, "id" | "generation">, patch: DiskStatusPatch): Promise<boolean> {
    return this.recorded(this.status.addDisk(row, patch, this.#recordSpan("disk", row.id)));
  }

  /**
   * Inserts the row of a new disk, or takes over the one that another node has released. False: the row is
   * another node's, and stays so.
   */
  insertDisk(row: DiskRow): Promise<boolean> {
    return this.recorded(this.status.insertDisk(row, this.#recordSpan("disk", row.id)));
  }

  /** As recordLvol, for a controller. */
  recordController(
    row: Pick<ControllerRow, "id" | "generation">,
    patch: ControllerStatusPatch,
  ): Promise<boolean> {
    const span = this.#recordSpan("controller", row.id);
    return this.recorded(this.status.addController(row, patch, span));
  }

  /** Inserts the row of a function that was not known; a row that exists already is not changed. */
  insertController(row: ControllerRow): Promise<boolean> {
    const span = this.#recordSpan("controller", row.id);
    return this.recorded(this.status.insertController(row, span));
  }

  #recordSpan(kind: RowChange["kind"], id: string): Span | undefined {
    return childSpan(this.#tracer, "commit status", {
      attributes: { [ATTR.objectKind]: kind, [ATTR.objectId]: id },
    });
  }
}
