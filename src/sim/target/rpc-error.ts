// JSON-RPC errors of SPDK, with the exact codes and messages of docs/spdk-contract.md#error-codes.

export class RpcError extends Error {
  readonly code: number;

  constructor(code: number, message: string) {
    super(message);
    this.name = "RpcError";
    this.code = code;
  }
}

const ERRNO_TEXTS = {
  EPERM: [1, "Operation not permitted"],
  ENOENT: [2, "No such file or directory"],
  EIO: [5, "Input/output error"],
  ENXIO: [6, "No such device or address"],
  ENOMEM: [12, "Cannot allocate memory"],
  EBUSY: [16, "Device or resource busy"],
  EEXIST: [17, "File exists"],
  ENODEV: [19, "No such device"],
  EINVAL: [22, "Invalid argument"],
  ENOSPC: [28, "No space left on device"],
  EAGAIN: [11, "Resource temporarily unavailable"],
  ETIMEDOUT: [110, "Connection timed out"],
} as const;

export type Errno = keyof typeof ERRNO_TEXTS;

/** Error of a failed look-up: the code is the negative errno. */
export function errno(name: Errno): RpcError {
  const [code, text] = ERRNO_TEXTS[name];
  return new RpcError(-code, text);
}

/**
 * Error of the asynchronous part: invalid params, with strerror as message
 * (docs/spdk-contract.md#error-codes).
 */
export function asyncErrno(name: Errno, code = -32602): RpcError {
  return new RpcError(code, ERRNO_TEXTS[name][1]);
}

export function invalidRequest(): RpcError {
  return new RpcError(-32600, "Invalid request");
}

export function bdevDecodeFailed(): RpcError {
  return new RpcError(-32603, "spdk_json_decode_object failed");
}

export function nvmfInvalid(): RpcError {
  return new RpcError(-32602, "Invalid parameters");
}

export function noSubsystem(nqn: string): RpcError {
  return new RpcError(-32602, `Subsystem with NQN '${nqn}' not found`);
}
