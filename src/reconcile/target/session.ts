// The session with the target. On each connection it identifies the target: its owner, which process of
// it answers, and what it holds. A full scan runs once per connection and then every five minutes;
// in between, objects are read by name, when a step or an event of the target names them.
//
// It never changes a target that carries another owner's mark.
import { ROOT_CONTEXT } from "@opentelemetry/api";
import type { OwnerMark } from "../../model/identity.ts";
import type { Continuity, TargetProcess } from "../../model/target-process.ts";
import { inSpan } from "../../telemetry/trace.ts";
import { DiscoveryListeners } from "./discovery.ts";
import { IdentifyAttempts } from "./identify-attempts.ts";
import { FullScan, type ScanOptions } from "./full-scan.ts";
import { TargetEvents } from "./events.ts";
import { socketMtimeNs } from "./process-facts.ts";
import { rowsRead } from "./rows-read.ts";
import type { TargetSessionOptions } from "./session-options.ts";
import { shownStatus, type SessionStatus, type TargetStatus } from "./status.ts";
import { TargetIdentity, type Missing } from "./target-identity.ts";
import { ensureTransport } from "./transport.ts";
import { FULL_SCAN_MS } from "../../limits.ts";

/** Prefix of the provisional incarnation of a target that this agent may not mark yet. */
const UNMARKED = "unmarked-";

export class TargetSession {
  readonly #options: TargetSessionOptions;
  readonly #events: TargetEvents;
  #status: SessionStatus;
  #timer: NodeJS.Timeout | undefined;
  #identifying: Promise<void> | undefined;
  readonly #scan: FullScan;
  readonly #identity: TargetIdentity;
  readonly #discovery: DiscoveryListeners;
  #identified = Promise.withResolvers<Continuity>();
  #socketMtimeNs: bigint | undefined;
  #lastIncarnation: string | undefined;
  readonly #closing = Promise.withResolvers<void>();
  /** What the write mode did not permit; the target is identified once more when it does. */
  #missing: Missing | undefined;
  readonly #attempts = new IdentifyAttempts();
  #closed = false;

  constructor(options: TargetSessionOptions) {
    this.#options = options;
    this.#scan = new FullScan(options);
    this.#identity = new TargetIdentity(options);
    this.#discovery = new DiscoveryListeners(options);
    this.#events = new TargetEvents({
      ...options,
      scanAll: () => this.scanAll({ sizes: false, subsystems: true }),
      alsoPoll: async () => {
        const stats = await options.spdk.nvmfGetStats();
        const { connectedHosts, space } = options;
        await Promise.all([connectedHosts.refresh(stats), space.poll(stats.completedIo)]);
      },
      periodMs: options.eventsMs,
      onError: (error) =>
        options.log.debug({ err: error }, "cannot read events of the SPDK target"),
    });
    this.#status = {
      connected: false,
      reason: "no connection yet",
      death: "",
      version: "",
      since: new Date(),
    };
    options.connection.onConnected(() => this.#begin());
    options.connection.onDisconnected((cause) => this.#end(cause.message));
    if (options.connection.connected) this.#begin();
  }

  get status(): TargetStatus {
    return shownStatus(this.#status, this.#options);
  }

  /**
   * What identifies the process of the target that is connected, or was last; undefined until one was
   * marked.
   */
  get process(): TargetProcess | undefined {
    return this.#identity.process;
  }

  /**
   * Resolves once a request whose connection was lost can no longer be running: the target is known to
   * have restarted, or the grace has passed.
   */
  async afterLoss(): Promise<void> {
    const continuity = await this.#identified.promise;
    if (continuity === "restarted") return;
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

  /** The write mode permits changes now: makes up for what it did not permit before. */
  onWriteMode(): void {
    const { observed, connection, returned } = this.#options;
    if (!connection.connected) return;
    if (returned.unsettled) this.scanSoon();
    this.#identity.record();
    if (this.#mayContinue()) {
      // No change may be planned, or recorded as pending, in a provisional incarnation, nor before what
      // exports need was made.
      if (this.#missing === "any change") observed.endIncarnation();
      this.#begin();
    } else this.#discovery.resume();
  }

  /** Whether the write mode permits what it did not permit when the target was identified. */
  #mayContinue(): boolean {
    const writeMode = this.#options.writeMode();
    if (this.#missing === undefined || writeMode === "read-only") return false;
    return this.#missing === "any change" || writeMode === "read-write";
  }

  #begin(): void {
    if (this.#identifying !== undefined || this.#closed) return;
    clearTimeout(this.#timer);
    const { waitMs } = this.#attempts;
    if (waitMs > 0) {
      if (this.#status.death !== "") this.#setStatus({ reason: "" });
      this.#beginIn(waitMs);
      return;
    }
    this.#options.pulse.mayAsk = true;
    const { connection } = this.#options;
    const { connectionNumber } = connection;
    const lost = () => !connection.connected || connection.connectionNumber !== connectionNumber;
    this.#identifying = this.#waitForRows()
      .then((rowsAreRead) => (rowsAreRead ? this.#identifyTraced() : undefined))
      .then(() => this.#mayContinue())
      .catch((error: unknown) => {
        this.#retryLater(error, lost());
        return false;
      })
      .then((mayContinue) => {
        this.#identifying = undefined;
        // The connection was made again, or the write mode has changed meanwhile. What failed waits for
        // the end of its back-off, whatever it may do.
        if ((connection.connected && lost()) || mayContinue) this.#begin();
      });
  }

  #retryLater(error: unknown, connectionLost: boolean): void {
    // The next connection begins anew.
    if (connectionLost || this.#closed) return;
    this.#stopObserving();
    const { attempt, nextTry } = this.#attempts.fail();
    const reason = `${asError(error).message}; next try at ${nextTry}`;
    this.#options.log.warn(
      { reason, attempt },
      "SPDK target is connected but cannot be identified",
    );
    this.#setStatus({ connected: false, reason, death: "" });
    this.#beginIn(this.#attempts.waitMs);
  }

  #beginIn(waitMs: number): void {
    this.#timer = setTimeout(() => {
      if (this.#options.connection.connected) this.#begin();
    }, waitMs);
    this.#timer.unref();
  }

  /**
   * Waits until the rows are read from the database: the scan matches objects with rows. Resolves
   * to false when the session was closed first.
   */
  async #waitForRows(): Promise<boolean> {
    const { spdk, rows } = this.#options;
    if (!this.#status.connected && this.#attempts.failed === 0)
      this.#setStatus({ reason: "being identified" });
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
    const { spdk, observed, log, connection } = this.#options;
    const { connectionNumber } = connection;
    await this.#beginSocket();
    // One write for all reads: after a restart of the target every export waits for them.
    const [, { version, hostDiscards }, scan, subsystems, transports] = await Promise.all([
      // Before the lists: a change during the scan is then reported by an event as well.
      this.#events.begin(),
      spdk.capabilities(),
      this.#scan.read({ sizes: true, subsystems: false }),
      this.#scan.readSubsystems(this.#identity.knownMarks()),
      spdk.nvmfGetTransports(),
    ]);
    const found = { ...scan, subsystems };
    const { ours, foreign } = this.#identity.marks.among(subsystems.subsystems);
    if (foreign !== undefined) {
      found.observedSince.end();
      this.#refuse(foreign);
      return;
    }
    let restarted = false;
    let otherProcess = false;
    try {
      if (!subsystems.all && ours.length === 0) throw this.#scan.subsystemsUnknown();
      this.#missing = undefined;
      // Its failure is reported when the process is known.
      const masks = hostDiscards === "transport" && this.#options.isolation === "strict";
      const transport = ensureTransport(this.#options, transports, masks).catch(
        (error: unknown) => ({ error }),
      );
      const { disks, lvols } = found;
      const someBdev = disks.found[0]?.bdevName ?? lvols[0]?.uuid;
      const identity = await this.#identity.identify(connectionNumber, ours, someBdev);
      const made = await transport;
      if ("error" in made) throw made.error;
      const { continuity } = identity;
      const incarnation = identity.incarnation ?? `${UNMARKED}${connectionNumber}`;
      this.#missing = made.missing ?? identity.missing;
      // A change may be permitted since, and none is planned in a provisional incarnation.
      if (incarnation.startsWith(UNMARKED) && this.#mayContinue()) return;
      const last = this.#lastIncarnation;
      this.#lastIncarnation = incarnation;
      restarted = continuity === "restarted" && last !== undefined && last !== incarnation;
      // A target that this agent could not mark before is marked now.
      otherProcess = restarted && last?.startsWith(UNMARKED) !== true;
      if (restarted) this.#scan.beginProcess();
      if (made.made && masks) this.#identity.discardsMasked();
      const masked = this.#identity.process?.discardsMasked === true;
      const unmasked = hostDiscards === "transport" && !masked;
      observed.beginIncarnation(incarnation, {
        earlierMayRun: continuity === "unsure",
        discardGuard: unmasked ? "nothing" : hostDiscards,
      });
      this.#scan.apply(found);
      this.#identified.resolve(continuity);
      this.#identified = Promise.withResolvers();
      log.info({ incarnation, continuity, version }, "SPDK target identified");
    } finally {
      found.observedSince.end();
    }
    this.#attempts.succeed();
    this.#setStatus({ connected: true, reason: "", death: "", version });
    this.#scheduleFullScan();
    this.#events.follow();
    this.#discovery.begin();
    this.#options.onReady({ restarted, otherProcess });
  }

  /** Another socket file is another process: its lists may be asked for again. */
  async #beginSocket(): Promise<void> {
    const mtimeNs = await socketMtimeNs(this.#options.spdkSocket);
    if (mtimeNs !== this.#socketMtimeNs) this.#scan.beginProcess();
    this.#socketMtimeNs = mtimeNs;
  }

  /** The target carries another owner's mark: it is reported and never changed. */
  #refuse(foreign: OwnerMark): void {
    const reason = `the target belongs to node ${foreign.node} of fleet ${foreign.fleet}`;
    this.#setStatus({ connected: false, reason });
    this.#options.log.error(
      { owner: foreign },
      "SPDK target belongs to another node, left unchanged",
    );
  }

  #end(reason: string): void {
    clearTimeout(this.#timer);
    this.#stopObserving();
    const death = this.#deathText();
    this.#setStatus({ connected: false, reason, death });
    const all = shownStatus(this.#status, this.#options).reason;
    this.#options.log.warn({ reason: all }, "SPDK target disconnected");
  }

  /** Nothing is planned on a target before it is identified. */
  #stopObserving(): void {
    this.#events.stop();
    this.#discovery.stop();
    this.#options.observed.endIncarnation();
  }

  /**
   * What it is asked when it is identified may be what it dies of: it is not asked at once again. Empty if it
   * was not being identified.
   */
  #deathText(): string {
    if (this.#identifying === undefined || this.#status.connected || this.#closed) {
      return this.#status.death;
    }
    const { attempt, nextTry } = this.#attempts.fail();
    this.#options.pulse.mayAsk = false;
    return `it ended while it was identified (attempt ${attempt}); next try at ${nextTry}`;
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

  #setStatus(change: Partial<SessionStatus>): void {
    const changed = change.connected !== undefined && change.connected !== this.#status.connected;
    this.#status = { ...this.#status, ...change, ...(changed ? { since: new Date() } : {}) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    this.#closing.resolve();
    clearTimeout(this.#timer);
    this.#discovery.stop();
    await Promise.all([this.#identifying, this.#discovery.idle()]);
    this.#events.stop();
  }
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}
