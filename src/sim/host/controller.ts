// The NVMe controller of a simulated Linux host: connects, asks again, scans its namespace, and
// keeps, resumes or removes the block device (docs/spdk-contract.md#hosts-and-a-restarting-target).
import { BlockDevice } from "./block-device.ts";
import type { Clock } from "./clock.ts";
import type { Fabric, HostAddress, ScannedNamespace, Session } from "./fabric.ts";

export type ControllerOptions = {
  readonly fabric: Fabric;
  /** NQN of the host. */
  readonly host: string;
  /** NQN of the subsystem. */
  readonly nqn: string;
  readonly address: HostAddress;
  readonly reconnectDelayMs: number;
  readonly ctrlLossTmoMs: number;
  readonly clock: Clock;
  readonly scanDelayMs: number;
  readonly removalMs: number;
  /** Called after every change of state or device. */
  readonly onChanged: () => void;
};

/** `removed`: ctrlLossTmoMs passed. `idle`: not started, or stopped. */
export type HostState = "idle" | "connecting" | "live" | "removed";

export class Controller {
  readonly #options: ControllerOptions;
  readonly #maxAttempts: number;
  #state: HostState = "idle";
  #session: Session | undefined;
  #device: BlockDevice | undefined;
  readonly devices: BlockDevice[] = [];
  readonly counts = { lostDevices: 0, reconnects: 0, refusedConnects: 0 };
  #failedAttempts = 0;
  #wasLive = false;
  /** Changes with every start and stop: what was begun before does not go on. */
  #run = 0;
  #cancelAttempt: () => void = () => {};
  #cancelScan: (() => void) | undefined;
  #cancelRemoval: (() => void) | undefined;
  lastStatus: number | undefined;

  constructor(options: ControllerOptions) {
    this.#options = options;
    this.#maxAttempts = Math.ceil(options.ctrlLossTmoMs / options.reconnectDelayMs);
  }

  get state(): HostState {
    return this.#state;
  }

  get device(): BlockDevice | undefined {
    return this.#device;
  }

  /** `nvme connect`. Without effect while it runs. */
  start(): void {
    if (this.#state === "connecting" || this.#state === "live") return;
    this.#run += 1;
    this.#state = "connecting";
    this.#failedAttempts = 0;
    this.#wasLive = false;
    void this.#attempt();
  }

  /** `nvme disconnect`: the block device goes, I/O that waits fails. */
  stop(): void {
    this.#run += 1;
    this.#cancelTimers();
    const session = this.#session;
    this.#session = undefined;
    this.#state = "idle";
    this.#device?.remove("the host disconnected");
    this.#device = undefined;
    session?.disconnect();
    this.#options.onChanged();
  }

  async #attempt(): Promise<void> {
    const run = this.#run;
    const { fabric, host, nqn, address } = this.#options;
    let session: Session | undefined;
    let ended = false;
    const outcome = await fabric.connect(
      { host, nqn, address },
      {
        onNamespaceChanged: () => {
          if (session !== undefined && session === this.#session) this.#scanLater(session);
        },
        onDisconnected: () => {
          ended = true;
          if (session !== undefined && session === this.#session) this.#disconnected();
        },
      },
    );
    if (outcome.kind === "connected") ({ session } = outcome);
    if (run !== this.#run) {
      session?.disconnect();
      return;
    }
    if (session === undefined) {
      this.lastStatus = outcome.kind === "refused" ? outcome.status : undefined;
      this.counts.refusedConnects += 1;
      this.#failed();
    } else if (ended) this.#failed();
    else await this.#connected(session);
  }

  async #connected(session: Session): Promise<void> {
    this.#session = session;
    this.#state = "live";
    this.#failedAttempts = 0;
    if (this.#wasLive) this.counts.reconnects += 1;
    this.#wasLive = true;
    await this.#scan(session, { afterConnect: true });
  }

  #failed(): void {
    this.#failedAttempts += 1;
    // As Linux does: the number of attempts ends it, not the time.
    if (this.#failedAttempts > this.#maxAttempts) {
      this.#state = "removed";
      this.#lose("the controller was removed after ctrl-loss-tmo");
    } else this.#attemptLater();
    this.#options.onChanged();
  }

  #attemptLater(): void {
    this.#cancelAttempt = this.#options.clock.after(this.#options.reconnectDelayMs, () => {
      void this.#attempt();
    });
  }

  #disconnected(): void {
    this.#cancelTimers();
    this.#session = undefined;
    this.#state = "connecting";
    // The attempt that was lost counts as none: the next one is the first.
    this.#failedAttempts = 1;
    this.#device?.pause();
    this.#attemptLater();
    this.#options.onChanged();
  }

  #scanLater(session: Session): void {
    this.#cancelScan ??= this.#options.clock.after(this.#options.scanDelayMs, () => {
      this.#cancelScan = undefined;
      void this.#scan(session, { afterConnect: false });
    });
  }

  async #scan(
    session: Session,
    { afterConnect }: { readonly afterConnect: boolean },
  ): Promise<void> {
    const found = await session.scan();
    if (session !== this.#session || found === "disconnected") return;
    this.#cancelRemoval?.();
    this.#cancelRemoval = undefined;
    if (found !== undefined) this.#met(session, found);
    else if (afterConnect) this.#lose("the namespace is gone");
    else if (this.#device !== undefined) this.#removeLater(session);
    this.#options.onChanged();
  }

  /** The removal that an event caused takes a moment: a connection that ends first prevents it. */
  #removeLater(session: Session): void {
    const { scanDelayMs, removalMs } = this.#options;
    this.#cancelRemoval = this.#options.clock.after(Math.max(0, removalMs - scanDelayMs), () => {
      this.#cancelRemoval = undefined;
      if (session !== this.#session) return;
      this.#lose("the namespace was removed");
      this.#options.onChanged();
    });
  }

  #met(session: Session, namespace: ScannedNamespace): void {
    if (this.#device?.is(namespace) === false) this.#lose("the namespace is another one");
    if (this.#device === undefined) {
      const diskseq = this.devices.length + 1;
      this.#device = new BlockDevice({ diskseq, namespace, clock: this.#options.clock });
      this.devices.push(this.#device);
    }
    this.#device.bytes = namespace.bytes;
    this.#device.resume(session);
  }

  #lose(reason: string): void {
    if (this.#device === undefined) return;
    this.#device.remove(reason);
    this.#device = undefined;
    this.counts.lostDevices += 1;
  }

  #cancelTimers(): void {
    this.#cancelAttempt();
    this.#cancelScan?.();
    this.#cancelScan = undefined;
    this.#cancelRemoval?.();
    this.#cancelRemoval = undefined;
  }
}
