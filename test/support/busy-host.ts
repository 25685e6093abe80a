// A simulated Linux host that writes, reads back and discards all the time, as the user of a volume
// does (src/sim/host/simulated-host.ts).
import { setTimeout as sleep } from "node:timers/promises";
import type { Fabric } from "../../src/sim/host/fabric.ts";
import { SimulatedHost, type HostCounters } from "../../src/sim/host/simulated-host.ts";

const PAGE = 4_096;
const PAGES = 64;
/** Above what crash-scenario.ts writes as a host. */
const FIRST = 32 * 1_024 * 1_024;
const PAUSE_MS = 15;

export type BusyHostOptions = {
  readonly fabric: Fabric;
  readonly host: string;
  readonly nqn: string;
  /** Default 20. */
  readonly reconnectDelayMs?: number | undefined;
  /** Default 120,000. */
  readonly ctrlLossTmoMs?: number;
};

export class BusyHost implements AsyncDisposable {
  readonly nqn: string;
  readonly #host: SimulatedHost;
  #working: Promise<void> | undefined;
  readonly #stopping = new AbortController();
  #begun = 0;
  /** Index of the last I/O that succeeded, in the order of their beginning. */
  #done = 0;

  private constructor({ reconnectDelayMs = 20, ctrlLossTmoMs = 120_000, ...of }: BusyHostOptions) {
    this.nqn = of.nqn;
    const address = { traddr: "127.0.0.1", trsvcid: "4440" };
    this.#host = new SimulatedHost({ ...of, address, reconnectDelayMs, ctrlLossTmoMs });
  }

  /** Connects; its I/O begins once there is a block device. */
  static start(options: BusyHostOptions): BusyHost {
    const one = new BusyHost(options);
    one.#host.start();
    one.#working = one.#work();
    return one;
  }

  /** Resolves once the host has its block device and has written to it. */
  static async connect(options: BusyHostOptions): Promise<BusyHost> {
    const one = BusyHost.start(options);
    await one.writesAgain();
    return one;
  }

  get connected(): boolean {
    return this.#host.state === "live";
  }

  get hasDevice(): boolean {
    return this.#host.device !== undefined;
  }

  /** Of its block device, as of the last scan. */
  get deviceBytes(): number | undefined {
    return this.#host.device?.bytes;
  }

  /** Resolves once the block device has that size. */
  async seesBytes(bytes: number): Promise<void> {
    await this.#host.until(() => this.#host.device?.bytes === bytes);
  }

  get counters(): HostCounters {
    return this.#host.counters;
  }

  /** Resolves when I/O that begins from now on has succeeded; rejects once the host was harmed. */
  async writesAgain(): Promise<void> {
    const begun = this.#begun;
    await this.#host.until(() => this.#done > begun || this.#harm().length > 0);
    const harm = this.#harm();
    if (harm.length > 0) throw new Error(`${this.nqn}: ${harm.join("; ")}`);
  }

  /** What a host that may use its volume must never see. */
  #harm(): readonly string[] {
    const { errors, lostDevices, mismatches } = this.counters;
    const seen = { errors, lostDevices, mismatches };
    return errors + lostDevices + mismatches > 0 ? [JSON.stringify(seen)] : [];
  }

  /** Resolves when the block device is gone. */
  async loses(): Promise<void> {
    await this.#host.until(() => this.#host.device === undefined);
  }

  /** Ends the I/O, reads everything back, and disconnects; returns what harm the host has seen. */
  async stop(): Promise<readonly string[]> {
    this.#stopping.abort();
    await this.#working;
    const differences = this.hasDevice ? await this.#host.verify() : [];
    const harm = [...this.#harm(), ...differences];
    this.#host.stop();
    return harm;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    this.#host.stop();
    await this.#working;
  }

  async #work(): Promise<void> {
    const { signal } = this.#stopping;
    await this.#host.until(() => this.hasDevice || signal.aborted);
    for (let turn = 0; !signal.aborted; turn += 1) {
      const offset = FIRST + (turn % PAGES) * PAGE;
      this.#begun += 1;
      const begun = this.#begun;
      const { ok } = await this.#io(turn, offset);
      if (ok) this.#done = begun;
      await sleep(PAUSE_MS, undefined, { signal }).catch(() => {});
    }
  }

  async #io(turn: number, offset: number) {
    if (turn % 16 === 15) return await this.#host.discard(offset, PAGE);
    if (turn % 4 === 3) return await this.#host.read(offset - PAGE, PAGE);
    return await this.#host.write(offset, Buffer.alloc(PAGE, 1 + (turn % 251)));
  }
}
