// Who calls the API, and as what. Pure.

export const ROLES = ["scheduler", "compute", "operator", "monitor"] as const;

export type Role = (typeof ROLES)[number];

export type Caller = {
  /** As it is logged and stored with what was asked: `URI:…` or `DNS:…`, `unix:PATH`, `tcp:ADDRESS`. */
  readonly name: string;
  readonly roles: readonly Role[];
  /** A compute node reads only exports that one of these hosts may connect to; undefined: any export. */
  readonly hostNqns: readonly string[] | undefined;
};

/** Where callers are not asked who they are: on loopback without TLS, and on the Unix socket. */
export function anyCaller(name: string): Caller {
  return { name, roles: ROLES, hostNqns: undefined };
}
