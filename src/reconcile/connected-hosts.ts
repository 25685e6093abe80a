// Which volumes have a host connected, so that after a restart of the target they come back first. SPDK
// tells it per subsystem only, so it is asked only when the target's count of connections has changed,
// and not often: an order of work may be out of date, a thousand questions a second may not be.
import type { SpdkClient } from "../spdk/client.ts";
import type { Rows } from "../store/rows.ts";

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
  #asked: { readonly atMs: number; readonly connections: string } | undefined;

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
    this.#asked = { atMs: this.#now(), connections: "" };
  }

  /** One small call; one more per export if somebody connected or left since. */
  async look(): Promise<void> {
    const { spdk, rows } = this.#options;
    const { adminQpairs, currentAdminQpairs } = await spdk.nvmfGetStats();
    const connections = `${adminQpairs}/${currentAdminQpairs}`;
    if (this.#asked?.connections === connections) return;
    const sinceMs = this.#now() - (this.#asked?.atMs ?? Number.NEGATIVE_INFINITY);
    if (this.#asked !== undefined && sinceMs < ASK_AGAIN_MS) return;
    this.#asked = { atMs: this.#now(), connections };
    const exported = [...rows.lvols()].filter(
      (row) => row.exported && row.deleteTime === undefined,
    );
    const asked = currentAdminQpairs === 0 ? [] : exported;
    const connected = await Promise.all(
      asked.map(async ({ id, nqn }) => {
        // A subsystem that went away meanwhile has nobody connected.
        const hosts = await spdk.nvmfSubsystemGetControllers(nqn).catch(() => []);
        return hosts.length > 0 ? [id] : [];
      }),
    );
    this.#ids = new Set(connected.flat());
  }
}
