// Which volumes have a host connected, so that after a restart of the target they come back first. SPDK
// tells it per subsystem only, so it is asked only when the target's count of connections has changed,
// and not often: an order of work may be out of date, a thousand questions a second may not be.
import type { SpdkClient } from "../../spdk/client.ts";
import { SpdkError } from "../../spdk/errors.ts";
import type { Rows } from "../../store/rows.ts";

const ASK_AGAIN_MS = 60_000;

export type ConnectedHostsOptions = {
  readonly spdk: Pick<SpdkClient, "nvmfGetStats" | "nvmfSubsystemGetControllers">;
  readonly rows: Rows;
  readonly now?: () => number;
};

export class ConnectedHosts {
  readonly #options: ConnectedHostsOptions;
  readonly #now: () => number;
  #ids: ReadonlySet<string> = new Set();
  /** As it was when each was last asked for, or when nobody was connected. */
  #connections = "";
  #askedAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: ConnectedHostsOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
  }

  /** Whether a host was connected to the volume when that was last asked, in whatever run. */
  has(id: string): boolean {
    return this.#ids.has(id);
  }

  /** A new run of the target: hosts need a while to come back, and are not forgotten meanwhile. */
  begin(): void {
    this.#connections = "";
    if (this.#ids.size > 0) this.#askedAtMs = this.#now();
  }

  /** One small call; one more per export if somebody connected or left since. */
  async refresh(): Promise<void> {
    const { spdk, rows } = this.#options;
    const { adminQpairs, currentAdminQpairs } = await spdk.nvmfGetStats();
    const connections = `${adminQpairs}/${currentAdminQpairs}`;
    if (this.#connections === connections) return;
    if (this.#now() - this.#askedAtMs < ASK_AGAIN_MS) return;
    this.#connections = connections;
    if (currentAdminQpairs === 0) {
      this.#ids = new Set();
      return;
    }
    this.#askedAtMs = this.#now();
    const exported = [...rows.lvols()].filter(
      (row) => row.exported && row.deleteTime === undefined,
    );
    // A target that goes away meanwhile answers nothing: what was known stays.
    const connected = await Promise.all(
      exported.map(async ({ id, nqn }) => ((await this.#isConnected(nqn)) ? [id] : [])),
    );
    this.#ids = new Set(connected.flat());
  }

  async #isConnected(nqn: string): Promise<boolean> {
    try {
      return (await this.#options.spdk.nvmfSubsystemGetControllers(nqn)).length > 0;
    } catch (error) {
      // A subsystem that is not there has nobody connected.
      if (error instanceof SpdkError) return false;
      throw error;
    }
  }
}
