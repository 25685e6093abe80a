// The session with the target. On each connection it identifies the target: its owner, its
// incarnation and what it holds. A full scan runs once per connection and then every five minutes;
// in between, objects are read by name, when a step or an event of the target names them.
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
import { FullScan, type FullScanOptions, type ScanOptions } from "./full-scan.ts";
import type { Orphans } from "./orphans.ts";
import type { ReturnedLvols } from "./returned-lvols.ts";
import { TargetEvents } from "./events.ts";
import { FULL_SCAN_MS, TARGET_RETRY_MS } from "../../limits.ts";

/** Prefix of the provisional incarnation of a target that this agent may not mark yet. */
const UNMARKED = "unmarked-";

export type TargetStatus = {
  readonly connected: boolean;
  /** The socket answers, whether or not the target is identified and owned by this node. */
  readonly answers: boolean;
  /** Why the agent does not work with the target; empty when it is identified and owned. */
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
  /** How long a request may still run in the same incarnation after its connection was lost. */
  readonly graceMs: number;
  readonly connectedHosts: ConnectedHosts;
  /** The interval in which the target's events are polled. */
  readonly eventsMs: number;
  readonly writeMode: () => WriteMode;
  readonly orphans: Orphans;
  readonly returned: ReturnedLvols;
  readonly disks: FullScanOptions["disks"];
  readonly scanDisks: () => Promise<void>;
  /** Called when the target is identified and its full scan is applied: loops may plan. */
  readonly onReady: () => void;
};

export class TargetSession {
  readonly #options: TargetSessionOptions;
  readonly #events: TargetEvents;
  #status: Omit<TargetStatus, "answers">;
  #timer: NodeJS.Timeout | undefined;
  #identifying: Promise<void> | undefined;
  readonly #scan: FullScan;
  #identified = Promise.withResolvers<{ readonly sameIncarnation: boolean }>();
  #lastIncarnation: string | undefined;
  readonly #closing = Promise.withResolvers<void>();
  /** The NVMe-oF transport is missing, and the write mode did not permit creating it. */
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
      onError: (error) =>
        options.log.debug({ err: error }, "cannot read events of the SPDK target"),
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
    return { ...this.#status, answers: fault === undefined, reason };
  }

  /**
   * Resolves once a request whose connection was lost can no longer be running: the target is
   * identified as a new incarnation, or as the same one and the grace has passed.
   */
  async afterLoss(): Promise<void> {
    const { sameIncarnation } = await this.#identified.promise;
    if (!sameIncarnation) return;
    await new Promise<void>((resolve) => setTimeout(resolve, this.#options.graceMs).unref());
  }

  /** Runs a full scan now, e.g. because an lvstore was loaded. */
  scanAll(options: ScanOptions): Promise<void> {
    return this.#scan.now(options);
  }

  /** Reads the lists again, as rows were brought back; if that fails, the next full scan does. */
  scanSoon(): void {
    this.#scan.now({ sizes: false, subsystems: false }).catch((error: unknown) => {
      this.#options.log.debug({ err: error }, "cannot list the objects of the SPDK target");
    });
  }

  /**
   * The write mode permits changes now: identifies the target again if its owner mark or its
   * transport is still to be created.
   */
  onWriteMode(): void {
    const { observed, connection, returned } = this.#options;
    if (connection.connected && returned.unsettled) this.scanSoon();
    const unmarked = observed.incarnation?.startsWith(UNMARKED) === true;
    if (connection.connected && (unmarked || this.#transportMissing)) this.#begin();
  }

  #begin(): void {
    if (this.#identifying !== undefined || this.#closed) return;
    clearTimeout(this.#timer);
    const { connectionNumber } = this.#options.connection;
    this.#identifying = this.#waitForRows()
      .then((rowsAreRead) => (rowsAreRead ? this.#identifyTraced() : undefined))
      .catch((error: unknown) => {
        const message = error instanceof Error ? error.message : String(error);
        this.#options.log.warn(
          { err: error },
          "SPDK target is connected but cannot be identified, retrying",
        );
        this.#setStatus({ connected: false, reason: message });
        this.#timer = setTimeout(() => this.#begin(), TARGET_RETRY_MS);
      })
      .finally(() => {
        this.#identifying = undefined;
        // The connection was lost and made again meanwhile.
        if (
          this.#options.connection.connected &&
          this.#options.connection.connectionNumber !== connectionNumber
        ) {
          this.#begin();
        }
        // The write mode may have changed meanwhile, too.
        if (this.#options.writeMode() !== "read-only") this.onWriteMode();
      });
  }

  /**
   * Waits until the rows are read from the database: the scan matches objects with rows. Resolves
   * to false when the session was closed first.
   */
  async #waitForRows(): Promise<boolean> {
    const { spdk, rows } = this.#options;
    if (!this.#status.connected) this.#setStatus({ reason: "being identified" });
    if (rows.node !== undefined) return true;
    const { version } = await spdk.capabilities();
    this.#setStatus({ connected: true, reason: "waiting for the database", version });
    await Promise.race([rowsRead(rows), this.#closing.promise]);
    return !this.#closed;
  }

  /** Identifies the target in a trace of its own, since no intent caused it. */
  async #identifyTraced(): Promise<void> {
    const { tracer } = this.#options.instruments;
    await inSpan(tracer, { name: "identify target", parent: ROOT_CONTEXT }, () =>
      this.#identifyTarget(),
    );
  }

  async #identifyTarget(): Promise<void> {
    const { spdk, observed, log } = this.#options;
    // One write for all reads: after a restart of the target every export waits for them.
    const [, { version }, scan, subsystems, transports] = await Promise.all([
      // Before the lists: a change during the scan is then reported by an event as well.
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
      this.#ensureTransport(transports),
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
    log.info({ incarnation, same_incarnation: sameIncarnation, version }, "SPDK target identified");
    this.#scheduleFullScan();
    this.#events.follow();
    this.#options.onReady();
  }

  #marks(subsystems: readonly Subsystem[]): readonly OwnerMark[] {
    const { nqnPrefix } = this.#options;
    return subsystems.flatMap(({ nqn }) => parseOwnerNqn(nqnPrefix, nqn) ?? []);
  }

  /** Whether the target carries another owner's mark: then it is reported and never changed. */
  #refuseForeign(subsystems: readonly Subsystem[]): boolean {
    const { nodeId, fleet, log } = this.#options;
    const foreign = this.#marks(subsystems).find(
      (mark) => mark.fleet !== fleetHash(fleet) || mark.node !== nodeId,
    );
    if (foreign === undefined) return false;
    const reason = `the target belongs to node ${foreign.node} of fleet ${foreign.fleet}`;
    this.#setStatus({ connected: false, reason });
    log.error({ owner: foreign }, "SPDK target belongs to another node, left unchanged");
    return true;
  }

  async #ensureTransport(transports: readonly Transport[]): Promise<void> {
    const { trtype: wanted, spdk, writeMode } = this.#options;
    const exists = ({ trtype }: Transport) => trtype.toUpperCase() === wanted.toUpperCase();
    this.#transportMissing = !transports.some(exists);
    if (!this.#transportMissing || writeMode() === "read-only") return;
    await spdk.nvmfCreateTransport(wanted);
    this.#transportMissing = false;
  }

  /** The incarnation that the owner mark names; creates the mark if there is none. */
  async #ensureOwnerMark(subsystems: readonly Subsystem[]): Promise<string> {
    const { nodeId, fleet, nqnPrefix, spdk, connection } = this.#options;
    const ours = this.#marks(subsystems)[0];
    if (ours !== undefined) return ours.incarnation;
    // The write mode does not permit a mark: observations belong to a provisional incarnation,
    // which ends when the target is marked.
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
    this.#options.log.warn({ reason }, "SPDK target disconnected");
  }

  #scheduleFullScan(): void {
    clearTimeout(this.#timer);
    if (this.#closed) return;
    this.#timer = setTimeout(() => {
      this.scanAll({ sizes: false, subsystems: true })
        .catch((error: unknown) =>
          this.#options.log.warn({ err: error }, "full scan of the SPDK target failed"),
        )
        .finally(() => {
          if (this.#status.connected) this.#scheduleFullScan();
        });
    }, FULL_SCAN_MS);
    this.#timer.unref();
  }

  #setStatus(change: Partial<Omit<TargetStatus, "answers">>): void {
    const changed = change.connected !== undefined && change.connected !== this.#status.connected;
    this.#status = { ...this.#status, ...change, ...(changed ? { since: new Date() } : {}) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    this.#closing.resolve();
    clearTimeout(this.#timer);
    await this.#identifying;
    this.#events.stop();
  }
}

async function rowsRead(rows: Rows): Promise<void> {
  if (rows.node !== undefined) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const stop = rows.subscribe(() => {
    if (rows.node !== undefined) resolve();
  });
  await promise;
  stop();
}
