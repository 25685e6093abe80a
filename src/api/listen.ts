// Listening on HOST:PORT.

/** Listening failed: the address is in use, not of this machine, or not permitted. */
export class ListenError extends Error {
  constructor(listen: string, cause: unknown) {
    const why = cause instanceof Error ? cause.message : String(cause);
    super(`cannot listen on ${listen}: ${why}`, { cause });
    this.name = "ListenError";
  }
}

/** Of HOST:PORT, where an IPv6 address is in brackets. */
export function hostAndPort(listen: string): { readonly host: string; readonly port: number } {
  const colon = listen.lastIndexOf(":");
  const host = listen.slice(0, colon).replace(/^\[(.*)\]$/, "$1");
  return { host, port: Number(listen.slice(colon + 1)) };
}
