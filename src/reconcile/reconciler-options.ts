// What the reconciler is composed of.
import type { Logger } from "pino";
import type { Config } from "../config.ts";
import type { SpdkClient } from "../spdk/client.ts";
import type { SpdkConnection } from "../spdk/connection.ts";
import type { StoreChanges } from "../spdk/store-changes.ts";
import type { Fence } from "../store/fence.ts";
import type { Rows } from "../store/rows.ts";
import type { Writer } from "../store/writer.ts";
import type { Kernel } from "../sysfs/kernel.ts";
import type { Instruments } from "../telemetry/instruments.ts";

export type ReconcilerOptions = {
  readonly config: Config;
  readonly rows: Rows;
  readonly writer: Writer;
  readonly kernel: Kernel;
  readonly connection: SpdkConnection;
  readonly spdk: SpdkClient;
  /** Which lvstores `spdk` is changing. */
  readonly storeChanges: StoreChanges;
  readonly fence: Fence;
  /** How long a request of an earlier agent may still be running in the same incarnation. */
  readonly graceMs: number;
  /** The interval in which the target's events are polled. */
  readonly eventsMs: number;
  /** After that long with an unknown outcome, what may be sent twice is sent again. */
  readonly repeatMs: number;
  /** Between two reads of the health page of a controller. */
  readonly healthMs: number;
  /** How long the answer with one is waited for. */
  readonly healthWaitMs: number;
  /** How long the answer to a change of a subsystem is waited for. */
  readonly nvmfWaitMs: number;
  readonly log: Logger;
  readonly instruments: Instruments;
};
