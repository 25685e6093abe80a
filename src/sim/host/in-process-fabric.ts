// Connects simulated hosts to a target in this process. `current` names the target that serves
// right now, so that a host outlives the restarts of an in-process target.
import type { Engine } from "../target/engine.ts";
import { connectHost, dropHosts } from "../target/host-connections.ts";
import { hostIo, IoFailed, namespaceBytes } from "../target/host-io.ts";
import type { HostController, Namespace, Subsystem } from "../target/nvmf-objects.ts";
import type {
  ConnectOutcome,
  ConnectRequest,
  Fabric,
  HostIo,
  IoOutcome,
  ScannedNamespace,
  Session,
  SessionListener,
} from "./fabric.ts";

export class InProcessFabric implements Fabric {
  readonly #current: () => Engine | undefined;
  readonly #onFatal: (error: unknown) => void;

  /** `onFatal`: called with the TargetAbort when the I/O of a host crashes the target. */
  constructor(current: () => Engine | undefined, onFatal: (error: unknown) => void) {
    this.#current = current;
    this.#onFatal = onFatal;
  }

  connect(request: ConnectRequest, listener: SessionListener): Promise<ConnectOutcome> {
    const engine = this.#current();
    if (engine === undefined || engine.target.ended) {
      return Promise.resolve({ kind: "unreachable" });
    }
    let connected = true;
    const onDisconnected = () => {
      connected = false;
      listener.onDisconnected();
    };
    const { onNamespaceChanged } = listener;
    const found = connectHost(engine.target, request, { onDisconnected, onNamespaceChanged });
    if (!("cntlid" in found)) return Promise.resolve({ kind: "refused", status: found.status });
    const subsystem = engine.target.subsystems.get(request.nqn);
    if (subsystem === undefined) throw new Error(`${request.nqn} vanished`);
    const isConnected = () => connected;
    const session = this.#session(engine, subsystem, found, isConnected);
    return Promise.resolve({ kind: "connected", session });
  }

  #session(
    engine: Engine,
    subsystem: Subsystem,
    controller: HostController,
    isConnected: () => boolean,
  ): Session {
    return {
      cntlid: controller.cntlid,
      scan: () => Promise.resolve(isConnected() ? scanned(subsystem) : "disconnected"),
      io: (io) =>
        Promise.resolve(
          isConnected() ? this.#io(engine, subsystem, io) : { kind: "disconnected" as const },
        ),
      disconnect: () => {
        if (isConnected()) dropHosts(subsystem, (one) => one === controller);
      },
    };
  }

  #io(engine: Engine, subsystem: Subsystem, io: HostIo): IoOutcome {
    const { target, release } = engine;
    try {
      const bytes = hostIo({ target, release, subsystem }, io);
      return bytes === undefined ? { kind: "done" } : { kind: "done", bytes };
    } catch (error) {
      if (error instanceof IoFailed) return { kind: "failed", reason: error.message };
      this.#onFatal(error);
      return { kind: "disconnected" };
    }
  }
}

export function scanned({ namespaces }: Subsystem): ScannedNamespace | undefined {
  const found: Namespace | undefined = namespaces.get(1);
  if (found === undefined) return undefined;
  return { uuid: found.uuid, nguid: found.nguid, bytes: namespaceBytes(found) };
}
