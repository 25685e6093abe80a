// Which volumes have a host connected, so that they are restored first after a restart of the
// target. SPDK lists controllers per subsystem only (one call per export), so the lists are read
// only when the target's count of admin connections has changed, and at most once a minute: a stale
// order of work is acceptable, a thousand calls a second are not.
import type { SpdkClient } from "../../spdk/client.ts";
import { SpdkError } from "../../spdk/errors.ts";
import type { NvmfStats } from "../../spdk/replies-nvmf.ts";
import type { Rows } from "../../store/rows.ts";
import type { Observed } from "./observed.ts";
import { CONNECTED_HOSTS_MS } from "../../limits.ts";

export type ConnectedHostsOptions = {
  readonly spdk: Pick<SpdkClient, "nvmfSubsystemGetControllers">;
  readonly rows: Rows;
  readonly observed: Pick<Observed, "setConnected">;
  readonly now?: () => number;
};

export class ConnectedHosts {
  readonly #options: ConnectedHostsOptions;
  readonly #now: () => number;
  #ids: ReadonlySet<string> = new Set();
  /** The admin connection counts at the last refresh, as "total/current". */
  #connections = "";
  #refreshedAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: ConnectedHostsOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
  }

  /** Whether a host was connected to the volume at the last refresh, in any incarnation. */
  has(id: string): boolean {
    return this.#ids.has(id);
  }

  /**
   * A new incarnation of the target begins: hosts take a while to reconnect, so the set of the
   * previous incarnation is kept for at least one refresh interval.
   */
  begin(): void {
    this.#connections = "";
    if (this.#ids.size > 0) this.#refreshedAtMs = this.#now();
  }

  /** Makes no call, but one per export when the count of connections has changed. */
  async refresh({ adminQpairs, currentAdminQpairs }: NvmfStats): Promise<void> {
    const { rows, observed } = this.#options;
    const connections = `${adminQpairs}/${currentAdminQpairs}`;
    if (this.#connections === connections) return;
    if (this.#now() - this.#refreshedAtMs < CONNECTED_HOSTS_MS) return;
    this.#connections = connections;
    const exported = [...rows.lvols()].filter(
      (row) => row.exported && row.deleteTime === undefined,
    );
    if (currentAdminQpairs === 0) {
      this.#ids = new Set();
      for (const { id } of exported) observed.setConnected(id, []);
      return;
    }
    this.#refreshedAtMs = this.#now();
    // When the connection to the target is lost, this rejects and the previous set is kept.
    const connected = await Promise.all(
      exported.map(async ({ id, nqn }) => ({ id, hosts: await this.#hostsOf(nqn) })),
    );
    for (const { id, hosts } of connected) observed.setConnected(id, hosts);
    this.#ids = new Set(connected.flatMap(({ id, hosts }) => (hosts.length > 0 ? [id] : [])));
  }

  async #hostsOf(nqn: string): Promise<readonly string[]> {
    try {
      const controllers = await this.#options.spdk.nvmfSubsystemGetControllers(nqn);
      return [...new Set(controllers.map(({ hostNqn }) => hostNqn))];
    } catch (error) {
      // SPDK answers an error for a subsystem that does not exist: no host is connected to it.
      if (error instanceof SpdkError) return [];
      throw error;
    }
  }
}
