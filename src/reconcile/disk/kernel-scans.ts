// When the kernel's disks are listed: at once on request, and else every KERNEL_SCAN_MS, one scan at a time.
import { KERNEL_LATE_MS, KERNEL_SCAN_MS } from "../../limits.ts";
import { Component } from "../../store/component.ts";
import type { LoopStatus, PassReason } from "../engine/kind.ts";

export class KernelScans {
  readonly #scan: () => Promise<void>;
  /** Runs after each scan, whether it failed or not. */
  readonly #then: () => void;
  readonly #status = new Component("not listed yet", { limitMs: KERNEL_LATE_MS });
  #passes = 0;
  #lastPass:
    { readonly reason: PassReason; readonly time: Date; readonly durationMs: number } | undefined;
  #timer: NodeJS.Timeout | undefined;
  #scanning: Promise<void> | undefined;
  #closed = false;

  constructor(scan: () => Promise<void>, then: () => void) {
    this.#scan = scan;
    this.#then = then;
  }

  get status() {
    return this.#status.status;
  }

  get loop(): LoopStatus {
    return {
      name: "disk-discover",
      passes: this.#passes,
      lastReason: this.#lastPass?.reason,
      steps: 0,
      lastPassTime: this.#lastPass?.time,
      lastDurationMs: this.#lastPass?.durationMs ?? 0,
      lastError: this.status.ok ? undefined : this.status.reason,
    };
  }

  /** Scans now instead of at the next interval. */
  now(): void {
    this.#request(this.#scanning === undefined ? "start" : "wake");
  }

  async stop(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#scanning;
  }

  #request(reason: PassReason): void {
    clearTimeout(this.#timer);
    const before = this.#scanning ?? Promise.resolve();
    this.#scanning = before.then(() => this.#pass(reason));
  }

  async #pass(reason: PassReason): Promise<void> {
    const started = performance.now();
    this.#status.begin();
    try {
      await this.#scan();
      this.#status.set(true, "");
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      this.#status.set(false, `cannot list the NVMe disks of the kernel: ${message}`);
    }
    if (!this.#closed) this.#then();
    this.#passes += 1;
    this.#lastPass = { reason, time: new Date(), durationMs: performance.now() - started };
    clearTimeout(this.#timer);
    if (this.#closed) return;
    this.#timer = setTimeout(() => this.#request("period"), KERNEL_SCAN_MS);
    this.#timer.unref();
  }
}
