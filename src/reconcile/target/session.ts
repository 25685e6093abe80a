// One connection to the target, from "it answers" to "it is known": whose target it is, which run of
// it, and what it holds. Everything is listed once per connection and then every few minutes; all
// else is looked at by name, when a step or an event of the target names it.
//
// It never changes a target that carries another owner's mark.
import { randomBytes } from "node:crypto";
import { ROOT_CONTEXT } from "@opentelemetry/api";
import type { Logger } from "pino";
import { fleetHash, ownerNqn, parseOwnerNqn, type OwnerMark } from "../../model/identity.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import type { SpdkConnection } from "../../spdk/connection.ts";
import type { Subsystem, Transport } from "../../spdk/replies-nvmf.ts";
import type { WriteMode } from "../../store/fence.ts";
import type { Rows } from "../../store/rows.ts";
import type { Instruments } from "../../telemetry/instruments.ts";
import { inSpan } from "../../telemetry/trace.ts";
import type { Observed } from "./observed.ts";
import type { ConnectedHosts } from "./connected-hosts.ts";
import {
  FullScan,
  type FullScanOptions,
  type ScanOptions,
  type OrphanCounts,
} from "./full-scan.ts";
import { TargetEvents } from "./events.ts";

/** How often everything is listed while nothing seems to happen. */
const FULL_SCAN_MS = 300_000;
const RETRY_MS = 1_000;
const UNMARKED = "unmarked-";

export type TargetStatus = OrphanCounts & {
  readonly connected: boolean;
  /** Somebody is there, be it ours and known or not. */
  readonly answers: boolean;
  /** Why nothing is changed on it, empty if it is ours and known. */
  readonly reason: string;
  readonly version: string;
  readonly since: Date;
};

export type TargetSessionOptions = {
  readonly connection: SpdkConnection;
  readonly spdk: SpdkClient;
  readonly rows: Rows;
  readonly observed: Observed;
  readonly log: Logger;
  readonly instruments: Instruments;
  readonly nodeId: string;
  readonly fleet: string;
  readonly nqnPrefix: string;
  readonly trtype: string;
  /** After a lost connection to a target that lives on: what was being done there has ended by then. */
  readonly graceMs: number;
  readonly connectedHosts: ConnectedHosts;
  /** How often the target is asked what happened to it. */
  readonly eventsMs: number;
  readonly writeMode: () => WriteMode;
  readonly disks: FullScanOptions["disks"];
  readonly scanDisks: () => Promise<void>;
  /** The run is known and everything on it was listed: loops may plan. */
  readonly onReady: () => void;
};

export class TargetSession {
  readonly #options: TargetSessionOptions;
  readonly #events: TargetEvents;
  #status: Omit<TargetStatus, keyof OrphanCounts | "answers">;
  #timer: NodeJS.Timeout | undefined;
  #beginning: Promise<void> | undefined;
  readonly #scan: FullScan;
  #identified = Promise.withResolvers<{ readonly sameIncarnation: boolean }>();
  #lastIncarnation: string | undefined;
  readonly #closing = Promise.withResolvers<void>();
  /** The transport is missing, and was not ours to make when it was looked for. */
  #transportMissing = false;
  #closed = false;

  constructor(options: TargetSessionOptions) {
    this.#options = options;
    this.#scan = new FullScan(options);
    this.#events = new TargetEvents({
      ...options,
      scanAll: () => this.scanAll({ sizes: false, subsystems: true }),
      alsoPoll: () => options.connectedHosts.refresh(),
      periodMs: options.eventsMs,
      onError: (error) => options.log.debug({ err: error }, "events cannot be read"),
    });
    this.#status = {
      connected: false,
      reason: "no connection yet",
      version: "",
      since: new Date(),
    };
    options.connection.onConnected(() => this.#begin());
    options.connection.onDisconnected((cause) => this.#end(cause.message));
    if (options.connection.connected) this.#begin();
  }

  get status(): TargetStatus {
    const { fault } = this.#options.connection;
    const reason = fault ?? this.#status.reason;
    return { ...this.#status, answers: fault === undefined, reason, ...this.#scan.orphanCounts };
  }

  /**
   * Resolves once a request whose connection was lost can no longer be running: the target is known
   * to have restarted, or it is the same one and a grace has passed.
   */
  async afterLoss(): Promise<void> {
    const { sameIncarnation } = await this.#identified.promise;
    if (!sameIncarnation) return;
    await new Promise<void>((resolve) => setTimeout(resolve, this.#options.graceMs).unref());
  }

  /** Lists everything now, e.g. because a store came up. */
  scanAll(options: ScanOptions): Promise<void> {
    return this.#scan.now(options);
  }

  /** This agent may change something now: what a target still lacks to be ours is made. */
  onWriteMode(): void {
    const { observed, connection } = this.#options;
    const unmarked = observed.incarnation?.startsWith(UNMARKED) === true;
    if (connection.connected && (unmarked || this.#transportMissing)) this.#begin();
  }

  #begin(): void {
    if (this.#beginning !== undefined || this.#closed) return;
    clearTimeout(this.#timer);
    const { connectionNumber } = this.#options.connection;
    this.#beginning = this.#waitForRows()
      .then((go) => (go ? this.#identifyTraced() : undefined))
      .catch((error: unknown) => {
        const message = error instanceof Error ? error.message : String(error);
        this.#options.log.warn({ err: error }, "target is connected but could not be read");
        this.#setStatus({ connected: false, reason: message });
        this.#timer = setTimeout(() => this.#begin(), RETRY_MS);
      })
      .finally(() => {
        this.#beginning = undefined;
        // The connection may have changed while its predecessor was being read.
        if (
          this.#options.connection.connected &&
          this.#options.connection.connectionNumber !== connectionNumber
        ) {
          this.#begin();
        }
        // So may have what this agent is allowed.
        if (this.#options.writeMode() !== "read-only") this.onWriteMode();
      });
  }

  /** What is there can only be told from what is wanted: it is listed once the rows are read. */
  async #waitForRows(): Promise<boolean> {
    const { spdk, rows } = this.#options;
    if (!this.#status.connected) this.#setStatus({ reason: "it is being looked at" });
    if (rows.node !== undefined) return true;
    const { version } = await spdk.capabilities();
    this.#setStatus({ connected: true, reason: "waiting for the database", version });
    await Promise.race([rowsRead(rows), this.#closing.promise]);
    return !this.#closed;
  }

  /** In a trace of its own: no intent caused it. */
  async #identifyTraced(): Promise<void> {
    const { tracer } = this.#options.instruments;
    await inSpan(tracer, { name: "identify target", parent: ROOT_CONTEXT }, () =>
      this.#identifyTarget(),
    );
  }

  async #identifyTarget(): Promise<void> {
    const { spdk, observed, log } = this.#options;
    // All of it in one write: every export of a target that restarted waits for this.
    const [, { version }, scan, subsystems, transports] = await Promise.all([
      // Before the lists: what happens meanwhile is then seen twice rather than not at all.
      this.#events.begin(),
      spdk.capabilities(),
      this.#scan.read({ sizes: true, subsystems: false }),
      spdk.nvmfGetSubsystems(),
      spdk.nvmfGetTransports(),
    ]);
    const found = { ...scan, subsystems };
    if (this.#refuseForeign(found.subsystems)) {
      found.observedSince.end();
      return;
    }
    const [incarnation] = await Promise.all([
      this.#ensureOwnerMark(found.subsystems),
      this.#makeTransport(transports),
    ]);
    const sameIncarnation = incarnation === this.#lastIncarnation;
    if (!sameIncarnation && this.#lastIncarnation !== undefined)
      this.#options.connectedHosts.begin();
    this.#lastIncarnation = incarnation;
    observed.beginIncarnation(incarnation);
    if (!sameIncarnation) this.#scan.beginIncarnation();
    this.#scan.apply(found);
    this.#identified.resolve({ sameIncarnation });
    this.#identified = Promise.withResolvers();
    this.#setStatus({ connected: true, reason: "", version });
    log.info({ incarnation, same_run: sameIncarnation, version }, "target is known");
    this.#plan();
    this.#events.follow();
    this.#options.onReady();
  }

  #marks(subsystems: readonly Subsystem[]): readonly OwnerMark[] {
    const { nqnPrefix } = this.#options;
    return subsystems.flatMap(({ nqn }) => parseOwnerNqn(nqnPrefix, nqn) ?? []);
  }

  /** Whether the target carries the mark of somebody else: then nothing is changed on it. */
  #refuseForeign(subsystems: readonly Subsystem[]): boolean {
    const { nodeId, fleet, log } = this.#options;
    const foreign = this.#marks(subsystems).find(
      (mark) => mark.fleet !== fleetHash(fleet) || mark.node !== nodeId,
    );
    if (foreign === undefined) return false;
    const reason = `the target belongs to node ${foreign.node} of fleet ${foreign.fleet}`;
    this.#setStatus({ connected: false, reason });
    log.error({ owner: foreign }, "target belongs to another node; nothing is changed on it");
    return true;
  }

  async #makeTransport(transports: readonly Transport[]): Promise<void> {
    const { trtype: wanted, spdk, writeMode } = this.#options;
    const exists = ({ trtype }: Transport) => trtype.toUpperCase() === wanted.toUpperCase();
    this.#transportMissing = !transports.some(exists);
    if (!this.#transportMissing || writeMode() === "read-only") return;
    await spdk.nvmfCreateTransport(wanted);
    this.#transportMissing = false;
  }

  /** The run's mark, made if there is none. */
  async #ensureOwnerMark(subsystems: readonly Subsystem[]): Promise<string> {
    const { nodeId, fleet, nqnPrefix, spdk, connection } = this.#options;
    const ours = this.#marks(subsystems)[0];
    if (ours !== undefined) return ours.incarnation;
    // Looked at, but not ours to mark: what is seen is kept under a run that ends when it is marked.
    if (this.#options.writeMode() === "read-only")
      return `${UNMARKED}${connection.connectionNumber}`;
    const incarnation = randomBytes(8).toString("hex");
    await spdk.nvmfCreateSubsystem({
      nqn: ownerNqn(nqnPrefix, { fleet, node: nodeId, incarnation }),
      serialNumber: incarnation,
      modelNumber: "storage-node owner",
      maxNamespaces: 1,
      allowAnyHost: false,
    });
    return incarnation;
  }

  #end(reason: string): void {
    clearTimeout(this.#timer);
    this.#events.stop();
    this.#options.observed.endIncarnation();
    this.#setStatus({ connected: false, reason });
    this.#options.log.warn({ reason }, "target is away");
  }

  #plan(): void {
    clearTimeout(this.#timer);
    if (this.#closed) return;
    this.#timer = setTimeout(() => {
      this.scanAll({ sizes: false, subsystems: true })
        .catch((error: unknown) => this.#options.log.warn({ err: error }, "full look failed"))
        .finally(() => {
          if (this.#status.connected) this.#plan();
        });
    }, FULL_SCAN_MS);
    this.#timer.unref();
  }

  #setStatus(change: Partial<Omit<TargetStatus, keyof OrphanCounts | "answers">>): void {
    const flips = change.connected !== undefined && change.connected !== this.#status.connected;
    this.#status = { ...this.#status, ...change, ...(flips ? { since: new Date() } : {}) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    this.#closing.resolve();
    clearTimeout(this.#timer);
    await this.#beginning;
    this.#events.stop();
  }
}

async function rowsRead(rows: Rows): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const stop = rows.subscribe(() => {
    if (rows.node !== undefined) resolve();
  });
  await promise;
  stop();
}
