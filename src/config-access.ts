// Settings of who may call: the addresses of both ports, TLS, and the flag that allows to do without.
import { accessFaults, type AccessPaths } from "./access/access.ts";
import { isLoopback } from "./model/address.ts";

type Environment = Readonly<Record<string, string | undefined>>;

export type AccessSettings = {
  /** Files of TLS and of who may call; undefined: both ports are served without TLS. */
  readonly access: AccessPaths | undefined;
  /** Addresses that others than this machine reach, and that are served without TLS. */
  readonly unprotected: readonly string[];
};

const PATHS = [
  "STORAGE_NODE_TLS_CERT",
  "STORAGE_NODE_TLS_KEY",
  "STORAGE_NODE_TLS_CA",
  "STORAGE_NODE_CLIENTS",
] as const;

const listenSyntax = /^(?:\[(?<v6>[^\]]+)\]|(?<v4>[^:]+)):(?<port>\d{1,5})$/;

/** Reads the raw values, so that its faults are reported together with all others. */
export function accessSettings(env: Environment, faults: string[]): AccessSettings {
  const access = accessPaths(env, faults);
  // What is wrong with the files of TLS is no reason to ask for the flag as well.
  const wanted = PATHS.some((name) => env[name] !== undefined);
  const insecure = env["STORAGE_NODE_INSECURE"] === "1";
  if (wanted && insecure) {
    faults.push("STORAGE_NODE_INSECURE: cannot be 1 with STORAGE_NODE_TLS_CERT: that is TLS");
  }
  const grpc = env["STORAGE_NODE_LISTEN"] ?? "127.0.0.1:50051";
  const http = env["STORAGE_NODE_HTTP_LISTEN"] ?? "off";
  const unprotected = [
    ...reachable("STORAGE_NODE_LISTEN", grpc, faults),
    ...(http === "off" ? [] : reachable("STORAGE_NODE_HTTP_LISTEN", http, faults)),
  ];
  if (wanted) return { access, unprotected: [] };
  if (!insecure) {
    for (const { name, host } of unprotected) {
      faults.push(
        `${name}: ${host} is not loopback: set STORAGE_NODE_TLS_CERT and what belongs to it, ` +
          "or STORAGE_NODE_INSECURE=1 to serve it without encryption to whoever asks",
      );
    }
  }
  return { access, unprotected: unprotected.map(({ name, listen }) => `${name} ${listen}`) };
}

function accessPaths(env: Environment, faults: string[]): AccessPaths | undefined {
  const [cert, key, ca, clients] = PATHS.map((name) => env[name]);
  if (cert !== undefined && key !== undefined && ca !== undefined && clients !== undefined) {
    const paths = { cert, key, ca, clients };
    faults.push(...accessFaults(paths));
    return paths;
  }
  const missing = PATHS.filter((name) => env[name] === undefined);
  if (missing.length < PATHS.length) {
    const set = PATHS.filter((name) => env[name] !== undefined);
    for (const name of missing) faults.push(`${name}: is needed with ${set.join(", ")}`);
  }
  return undefined;
}

type Reachable = { readonly name: string; readonly host: string; readonly listen: string };

/** None if only this machine can connect to it. */
function reachable(name: string, listen: string, faults: string[]): readonly Reachable[] {
  const match = listenSyntax.exec(listen);
  const host = match?.groups?.["v6"] ?? match?.groups?.["v4"];
  const digits = match?.groups?.["port"];
  if (host === undefined || digits === undefined || Number(digits) > 65_535) {
    faults.push(`${name}: must be HOST:PORT, such as 127.0.0.1:50051`);
    return [];
  }
  return host === "localhost" || isLoopback(host) ? [] : [{ name, host, listen }];
}
