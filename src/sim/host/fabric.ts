// What a simulated host needs of the target that serves an address right now: to connect to it, to
// read its namespace, to do I/O on it, and to learn that the namespace changed or the connection
// ended. One implementation calls a target in this process, another uses the control socket of a
// simulator process (in-process-fabric.ts, control-fabric.ts).

export type HostAddress = { readonly traddr: string; readonly trsvcid: string };

export type ConnectRequest = {
  readonly nqn: string;
  readonly host: string;
  readonly address: HostAddress;
};

/** What a host learns about namespace 1 when it scans. */
export type ScannedNamespace = {
  readonly uuid: string;
  readonly nguid: string;
  readonly bytes: number;
};

export type BlockRange = { readonly offset: number; readonly length: number };

export type HostIo =
  | { readonly kind: "write"; readonly offset: number; readonly bytes: Buffer }
  | ({ readonly kind: "read" | "discard" | "write_zeroes" } & BlockRange);

/** `disconnected`: the connection ended first; the host does not know whether it took effect. */
export type IoOutcome =
  | { readonly kind: "done"; readonly bytes?: Buffer }
  | { readonly kind: "failed"; readonly reason: string }
  | { readonly kind: "disconnected" };

export type SessionListener = {
  /** The asynchronous event: the namespace came, went or changed its size. */
  readonly onNamespaceChanged: () => void;
  readonly onDisconnected: () => void;
};

export type Session = {
  readonly cntlid: number;
  /** Undefined: no namespace 1. "disconnected": the connection ended first. */
  readonly scan: () => Promise<ScannedNamespace | undefined | "disconnected">;
  readonly io: (io: HostIo) => Promise<IoOutcome>;
  readonly disconnect: () => void;
};

export type ConnectOutcome =
  | { readonly kind: "connected"; readonly session: Session }
  /** NVMe status: 0x182 no such subsystem, 0x184 no listener there, or the host is not allowed. */
  | { readonly kind: "refused"; readonly status: number }
  /** Nothing listens at the address: no target process. */
  | { readonly kind: "unreachable" };

export type Fabric = {
  readonly connect: (request: ConnectRequest, listener: SessionListener) => Promise<ConnectOutcome>;
};
