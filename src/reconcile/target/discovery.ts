// Listeners of the discovery subsystem, one for each export address: without one SPDK answers discovery
// there with a warning (docs/spdk-contract.md#nvme-of). Missing ones are added, then those of addresses
// that are not configured are removed. Each address has a back-off of its own, and nothing waits for it.
import type { Logger } from "pino";
import { addressText } from "../../model/address.ts";
import { sameAddress, type ListenAddress } from "../../model/lvol.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import { SpdkError } from "../../spdk/errors.ts";
import type { WriteMode } from "../../store/fence.ts";
import { backoffMs } from "../engine/backoff.ts";

const DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery";

export type DiscoveryOptions = {
  readonly spdk: Pick<
    SpdkClient,
    "capabilities" | "getSubsystem" | "nvmfSubsystemAddListener" | "nvmfSubsystemRemoveListener"
  >;
  readonly listenAddresses: readonly ListenAddress[];
  readonly log: Logger;
  readonly writeMode: () => WriteMode;
};

type Failure = { attempt: number; dueMs: number };

export class DiscoveryListeners {
  readonly #options: DiscoveryOptions;
  readonly #failures = new Map<string, Failure>();
  #timer: NodeJS.Timeout | undefined;
  #turn: Promise<void> = Promise.resolve();
  /** Raised by each begin and stop: a turn of an earlier one ends. */
  #number = 0;
  /** The write mode did not permit changes when the target was identified. */
  #waiting = false;

  constructor(options: DiscoveryOptions) {
    this.#options = options;
  }

  /** The target was identified and has its transport: every address is tried at once. */
  begin(): void {
    this.stop();
    this.#failures.clear();
    this.#next(this.#number);
  }

  /** The write mode may permit changes now. */
  resume(): void {
    if (this.#waiting) this.begin();
  }

  stop(): void {
    this.#number += 1;
    this.#waiting = false;
    clearTimeout(this.#timer);
  }

  /** Resolves when no call is under way. */
  async idle(): Promise<void> {
    await this.#turn;
  }

  #next(number: number): void {
    this.#turn = this.#turn.then(async () => {
      const current = () => number === this.#number && this.#options.writeMode() !== "read-only";
      if (!current()) {
        this.#waiting = number === this.#number;
        return;
      }
      try {
        await this.#converge(current);
      } catch (error) {
        // The connection was lost: the next identification begins anew.
        this.#options.log.debug(
          { err: error },
          "discovery listeners are not known to be as wanted",
        );
        this.#fail("");
      }
      const dueMs = Math.min(...[...this.#failures.values()].map((failure) => failure.dueMs));
      if (number !== this.#number || !Number.isFinite(dueMs)) return;
      const delayMs = Math.max(0, dueMs - performance.now());
      this.#timer = setTimeout(() => this.#next(number), delayMs);
      this.#timer.unref();
    });
  }

  async #converge(current: () => boolean): Promise<void> {
    const { spdk, listenAddresses } = this.#options;
    const before = await this.#read();
    if (before === undefined || !current()) return;
    const missing = without(listenAddresses, before);
    await this.#change(missing, (address) =>
      spdk.nvmfSubsystemAddListener({ nqn: DISCOVERY_NQN, address }),
    );
    if (!current()) return;
    await this.#change(without(before, listenAddresses), (address) =>
      spdk.nvmfSubsystemRemoveListener({ nqn: DISCOVERY_NQN, address }),
    );
    // Errors are vague, and a success is only known once it was read.
    const after = await this.#read();
    if (after === undefined) return;
    this.#settle(without(listenAddresses, after), "cannot add a discovery listener");
    this.#settle(without(after, listenAddresses), "cannot remove a discovery listener");
    const open = [...without(listenAddresses, after), ...without(after, listenAddresses)];
    const keys = new Set(open.map(addressText));
    for (const key of this.#failures.keys()) if (!keys.has(key)) this.#failures.delete(key);
  }

  /** Undefined where somebody has deleted the discovery subsystem. */
  async #read(): Promise<readonly ListenAddress[] | undefined> {
    return (await this.#options.spdk.getSubsystem(DISCOVERY_NQN))?.listenAddresses;
  }

  /** One call for each address that is due; what SPDK refuses shows in what is read afterwards. */
  async #change(
    addresses: readonly ListenAddress[],
    call: (address: ListenAddress) => Promise<void>,
  ): Promise<void> {
    const now = performance.now();
    const due = addresses.filter(
      (address) => (this.#failures.get(addressText(address))?.dueMs ?? 0) <= now,
    );
    const attempt = async (address: ListenAddress) => {
      try {
        await call(address);
      } catch (error) {
        if (!(error instanceof SpdkError)) throw error;
      }
    };
    const { pipelinePerSubsystem } = await this.#options.spdk.capabilities();
    if (pipelinePerSubsystem) await Promise.all(due.map(attempt));
    else for (const address of due) await attempt(address);
  }

  #settle(open: readonly ListenAddress[], what: string): void {
    const now = performance.now();
    for (const address of open) {
      const key = addressText(address);
      if ((this.#failures.get(key)?.dueMs ?? 0) > now) continue;
      const attempt = this.#fail(key);
      this.#options.log.warn({ address: key, attempt }, what);
    }
  }

  #fail(key: string): number {
    const attempt = (this.#failures.get(key)?.attempt ?? 0) + 1;
    this.#failures.set(key, { attempt, dueMs: performance.now() + backoffMs(attempt) });
    return attempt;
  }
}

/** The addresses that are not among the others. */
function without(
  addresses: readonly ListenAddress[],
  others: readonly ListenAddress[],
): readonly ListenAddress[] {
  return addresses.filter((one) => !others.some((other) => sameAddress(one, other)));
}
