// A Linux host (6.1, nvme-tcp) that uses one export, for tests of what an agent does to hosts
// (docs/spdk-contract.md#hosts-and-a-restarting-target). It lives outside the target and outlives
// it: `fabric` reaches whatever target serves right now.
//
//   const host = new SimulatedHost({ fabric, host: HOST_NQN, nqn, address,
//                                    reconnectDelayMs: 20, ctrlLossTmoMs: 2_000 });
//   host.start();
//   await host.until(() => host.device !== undefined);
//   await host.write(0, Buffer.alloc(4_096, 7));      // { ok: true } or { ok: false, reason }
//   host.counters                                     // errors, lostDevices, longestGapMs, ...
//
// A refused or lost connection is asked for again every reconnectDelayMs until ctrlLossTmoMs have
// passed; meanwhile I/O waits. A scan follows each connect at once and each change of the namespace
// after scanDelayMs. A scan after a connect that does not find the namespace removes the block
// device; one after a change does so only if the connection lives on until removalMs after it.
import type { BlockDevice, IoResult } from "./block-device.ts";
import { realClock, type Clock } from "./clock.ts";
import { Controller, type ControllerOptions, type HostState } from "./controller.ts";
import type { HostIo } from "./fabric.ts";
import { WrittenData } from "./written-data.ts";

export type SimulatedHostOptions = Pick<
  ControllerOptions,
  "fabric" | "host" | "nqn" | "address" | "reconnectDelayMs" | "ctrlLossTmoMs"
> & {
  /** Default: real time. */
  readonly clock?: Clock;
  /** Default 100. */
  readonly scanDelayMs?: number;
  /** Default 500. */
  readonly removalMs?: number;
};

export type HostCounters = {
  /** Successful I/O. */
  readonly reads: number;
  readonly writes: number;
  readonly discards: number;
  /** Reads and writes that failed. */
  readonly errors: number;
  /** Discards that were refused. */
  readonly refusedDiscards: number;
  /** Sectors that a read found other than they were written. */
  readonly mismatches: number;
  /** Block devices that went away without the host's doing. */
  readonly lostDevices: number;
  readonly reconnects: number;
  /** Connects that were refused or met no target. */
  readonly refusedConnects: number;
  /** Longest time that an I/O which succeeded, or still waits, has waited. */
  readonly longestGapMs: number;
};

const VERIFY_BYTES = 65_536;

export class SimulatedHost implements Disposable {
  readonly #controller: Controller;
  #open: BlockDevice | undefined;
  readonly #written = new Map<string, WrittenData>();
  #waiters: { readonly isReached: () => boolean; readonly resolve: () => void }[] = [];
  readonly #counts = {
    reads: 0,
    writes: 0,
    discards: 0,
    errors: 0,
    refusedDiscards: 0,
    mismatches: 0,
  };

  constructor(options: SimulatedHostOptions) {
    this.#controller = new Controller({
      clock: realClock,
      scanDelayMs: 100,
      removalMs: 500,
      ...options,
      onChanged: () => this.#changed(),
    });
  }

  get state(): HostState {
    return this.#controller.state;
  }

  /** The block device there is now, connected or not. */
  get device(): BlockDevice | undefined {
    return this.#controller.device;
  }

  /** NVMe status of the last refused connect: 0x182, 0x184; undefined: none, or no target. */
  get lastStatus(): number | undefined {
    return this.#controller.lastStatus;
  }

  /** I/O without an end. */
  get waiting(): number {
    return this.#controller.devices.reduce((sum, { waiting }) => sum + waiting, 0);
  }

  get counters(): HostCounters {
    const { devices, counts } = this.#controller;
    const longestGapMs = Math.max(0, ...devices.map((one) => one.longestGapMs));
    return { ...this.#counts, ...counts, longestGapMs };
  }

  /** `nvme connect`. Without effect while it runs. */
  start(): void {
    this.#controller.start();
  }

  /** `nvme disconnect`: the block device goes, I/O that waits fails. */
  stop(): void {
    this.#controller.stop();
  }

  [Symbol.dispose](): void {
    this.stop();
  }

  /** Resolves once `isReached` holds; it is asked after every event of this host. */
  until(isReached: () => boolean): Promise<void> {
    if (isReached()) return Promise.resolve();
    return new Promise((resolve) => this.#waiters.push({ isReached, resolve }));
  }

  /** Opens the block device there is now; before that, I/O goes to the one that was opened first. */
  reopen(): void {
    this.#open = this.device;
  }

  async write(offset: number, bytes: Buffer): Promise<IoResult> {
    return await this.#change({ kind: "write", offset, bytes }, bytes);
  }

  async writeZeroes(offset: number, length: number): Promise<IoResult> {
    return await this.#change({ kind: "write_zeroes", offset, length }, Buffer.alloc(length));
  }

  /** What the blocks read as afterwards is not defined. */
  async discard(offset: number, length: number): Promise<IoResult> {
    this.#opened()?.data.changing(offset, length);
    return await this.#submit({ kind: "discard", offset, length });
  }

  async read(offset: number, length: number): Promise<IoResult> {
    const check = this.#opened()?.data.reading(offset, length);
    const result = await this.#submit({ kind: "read", offset, length });
    if (result.ok && check !== undefined) this.#counts.mismatches += check(result.bytes);
    return result;
  }

  /**
   * Reads everything that this host wrote to the open device and was told to be written. Returns
   * what differs or cannot be read; empty: nothing does.
   */
  async verify(): Promise<readonly string[]> {
    const opened = this.#opened();
    if (opened === undefined) return ["there is no block device"];
    const found: string[] = [];
    for (const { offset, length } of opened.data.known(VERIFY_BYTES)) {
      const check = opened.data.reading(offset, length);
      const result = await this.read(offset, length);
      const different = result.ok ? check(result.bytes) : 0;
      if (!result.ok) found.push(`${length} bytes at ${offset}: ${result.reason}`);
      if (different > 0) found.push(`${different} sectors of ${length} bytes at ${offset} differ`);
    }
    return found;
  }

  async #change(io: HostIo, bytes: Buffer): Promise<IoResult> {
    const confirm = this.#opened()?.data.changing(io.offset, bytes.length);
    const result = await this.#submit(io);
    if (result.ok) confirm?.(bytes);
    return result;
  }

  async #submit(io: HostIo): Promise<IoResult> {
    const opened = this.#opened();
    const result: IoResult =
      opened === undefined
        ? { ok: false, reason: "there is no block device" }
        : await opened.device.submit(io);
    this.#count(io, result.ok);
    this.#changed();
    return result;
  }

  #count({ kind }: HostIo, ok: boolean): void {
    if (kind === "discard") this.#counts[ok ? "discards" : "refusedDiscards"] += 1;
    else if (!ok) this.#counts.errors += 1;
    else this.#counts[kind === "read" ? "reads" : "writes"] += 1;
  }

  #opened(): { readonly device: BlockDevice; readonly data: WrittenData } | undefined {
    this.#open ??= this.device;
    const device = this.#open;
    if (device === undefined) return undefined;
    const data = this.#written.get(device.uuid) ?? new WrittenData();
    this.#written.set(device.uuid, data);
    return { device, data };
  }

  #changed(): void {
    const reached = this.#waiters.filter(({ isReached }) => isReached());
    this.#waiters = this.#waiters.filter((one) => !reached.includes(one));
    for (const { resolve } of reached) resolve();
  }
}
