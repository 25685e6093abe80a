// Orders of the control socket on hosts. `connect_host` makes a bare connection, which a host
// outside this process keeps by its cntlid (src/sim/host/control-fabric.ts); `start_host` makes a
// host that lives in this process and dies with it.
import { InProcessFabric, scanned } from "../host/in-process-fabric.ts";
import { SimulatedHost } from "../host/simulated-host.ts";
import type { IoResult } from "../host/block-device.ts";
import type { OrderOf } from "./control-orders.ts";
import type { Engine } from "./engine.ts";
import { connectHost, dropHosts, isAllowed, isAt } from "./host-connections.ts";
import { hostIo, IoFailed } from "./host-io.ts";
import { byNqn } from "./nvmf-names.ts";
import type { HostController, Subsystem } from "./nvmf-objects.ts";

type Connection = {
  readonly subsystem: Subsystem;
  readonly controller: HostController;
  changes: number;
  connected: boolean;
};

type HostName = { readonly nqn?: string | undefined; readonly host?: string | undefined };

export class ControlHosts implements Disposable {
  readonly #engine: Engine;
  readonly #fabric: InProcessFabric;
  readonly #connections = new Map<number, Connection>();
  readonly #hosts = new Map<string, SimulatedHost>();

  constructor(engine: Engine, onFatal: (error: unknown) => void) {
    this.#engine = engine;
    this.#fabric = new InProcessFabric(() => engine, onFatal);
  }

  [Symbol.dispose](): void {
    for (const host of this.#hosts.values()) host.stop();
  }

  connect({ nqn, host, traddr, trsvcid }: OrderOf<"connect_host">): object {
    const { target } = this.#engine;
    const address = trsvcid === undefined ? undefined : { traddr, trsvcid };
    let connection: Connection | undefined;
    const found = connectHost(
      target,
      { nqn, host, address },
      {
        onNamespaceChanged: () => {
          if (connection !== undefined) connection.changes += 1;
        },
        onDisconnected: () => {
          if (connection !== undefined) connection.connected = false;
        },
      },
    );
    if (!("cntlid" in found)) return { error: found.reason, status: found.status };
    const subsystem = target.subsystems.get(nqn);
    if (subsystem === undefined) throw new Error(`no subsystem ${nqn}`);
    connection = { subsystem, controller: found, changes: 0, connected: true };
    this.#connections.set(found.cntlid, connection);
    return { cntlid: found.cntlid };
  }

  disconnect({ nqn, host, cntlid }: OrderOf<"disconnect_host">): object {
    const subsystem = this.#engine.target.subsystems.get(nqn);
    const found = subsystem?.controllers.find(
      (one) => one.hostNqn === host && (cntlid === undefined || one.cntlid === cntlid),
    );
    if (subsystem === undefined || found === undefined) {
      return { error: `host ${host} is not connected to ${nqn}` };
    }
    dropHosts(subsystem, (one) => one === found);
    this.#connections.delete(found.cntlid);
    return { done: true };
  }

  start(asked: OrderOf<"start_host">): object {
    const { nqn, host, traddr, trsvcid } = asked;
    const key = keyOf(asked);
    this.#hosts.get(key)?.stop();
    const started = new SimulatedHost({
      fabric: this.#fabric,
      nqn,
      host,
      address: { traddr, trsvcid },
      reconnectDelayMs: asked.reconnect_delay_ms,
      ctrlLossTmoMs: asked.ctrl_loss_tmo_ms,
    });
    this.#hosts.set(key, started);
    started.start();
    return { done: true };
  }

  stop(asked: HostName): object {
    this.#hostOf(asked).stop();
    return { done: true };
  }

  reopen(asked: HostName): object {
    this.#hostOf(asked).reopen();
    return { done: true };
  }

  state(asked: OrderOf<"host_state">): object {
    if (asked.cntlid === undefined) return hostJson(this.#hostOf(asked));
    const connection = this.#connections.get(asked.cntlid);
    if (connection?.connected !== true) return { connected: false };
    const { changes, subsystem } = connection;
    return { connected: true, changes, namespace: scanned(subsystem) ?? null };
  }

  async io(asked: OrderOf<"host_io">): Promise<object> {
    const { kind, offset } = asked;
    const bytes = Buffer.from(asked.hex.repeat(asked.times), "hex");
    const length = asked.bytes ?? bytes.length;
    if (asked.cntlid === undefined) {
      const host = this.#hostOf(asked);
      if (kind === "write") return await endOf(host.write(offset, bytes));
      if (kind === "read") return await endOf(host.read(offset, length));
      if (kind === "discard") return await endOf(host.discard(offset, length));
      return await endOf(host.writeZeroes(offset, length));
    }
    const connection = this.#connections.get(asked.cntlid);
    if (connection?.connected !== true) return { connected: false };
    const { target, release } = this.#engine;
    const { subsystem } = connection;
    try {
      const io = kind === "write" ? { kind, offset, bytes } : { kind, offset, length };
      const read = hostIo({ target, release, subsystem }, io);
      return read === undefined ? { done: true } : { hex: read.toString("hex") };
    } catch (error) {
      if (error instanceof IoFailed) return { failed: error.message };
      throw error;
    }
  }

  /** The subsystems that discovery at an address names to a host. */
  discoveryLog({ host, traddr, trsvcid }: OrderOf<"discovery_log">): object {
    const { target } = this.#engine;
    const at = { traddr, trsvcid };
    const listening = [...target.subsystems.values()].filter(({ listeners }) =>
      listeners.some(({ address }) => isAt(address, at)),
    );
    const listens = target.discoveryListeners.some((address) => isAt(address, at));
    if (!target.discovery || (!listens && listening.length === 0)) {
      return { error: `nothing answers discovery at ${traddr}:${trsvcid}` };
    }
    if (!listens) target.discoveryWarnings += 1;
    const named = listening.filter((one) => isAllowed(one, host)).toSorted(byNqn);
    return { subsystems: named.map(({ nqn }) => nqn) };
  }

  #hostOf(asked: HostName): SimulatedHost {
    const found = this.#hosts.get(keyOf(asked));
    if (found === undefined) throw new Error(`no host ${asked.host} of ${asked.nqn} was started`);
    return found;
  }
}

function keyOf({ nqn = "", host = "" }: HostName): string {
  return `${host} ${nqn}`;
}

function hostJson(host: SimulatedHost): object {
  const { state, waiting, counters, device, lastStatus } = host;
  const seen =
    device === undefined
      ? null
      : { diskseq: device.diskseq, uuid: device.uuid, bytes: device.bytes };
  return { state, status: lastStatus ?? null, device: seen, waiting, counters };
}

/** How an I/O ended, or that it waits for the connection. */
async function endOf(io: Promise<IoResult>): Promise<object> {
  const soon = new Promise<undefined>((resolve) => setImmediate(() => resolve(undefined)));
  const result = await Promise.race([io, soon]);
  if (result === undefined) return { queued: true };
  if (!result.ok) return { failed: result.reason };
  return result.bytes.length === 0 ? { done: true } : { hex: result.bytes.toString("hex") };
}
