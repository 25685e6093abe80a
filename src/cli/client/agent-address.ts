// Where a command finds the agent, and what it shows to be let in: the Unix socket on the node, or a TCP
// address with or without TLS.
import {
  credentials,
  experimental,
  type ChannelCredentials,
  type ClientOptions,
} from "@grpc/grpc-js";
import { readFileSync } from "node:fs";
import { isIP } from "node:net";
import { checkServerIdentity } from "node:tls";
import type { ParseArgsOptionsConfig } from "node:util";

export type AgentAddress = {
  /** For people: HOST:PORT, or the path of the socket. */
  readonly shown: string;
  /** How grpcurl reaches the same, as its arguments. */
  readonly grpcurl: string;
  /** As gRPC names it. */
  readonly target: string;
  readonly credentials: ChannelCredentials;
  readonly options: ClientOptions;
  /** Over TCP without TLS. */
  readonly plain: boolean;
};

/** The options do not fit together, or name a file that cannot be used. */
class AddressFault extends Error {
  constructor(message: string) {
    super(message);
    this.name = "AddressFault";
  }
}

export const ADDRESS_OPTIONS = {
  address: { type: "string" },
  socket: { type: "string" },
  ca: { type: "string" },
  cert: { type: "string" },
  key: { type: "string" },
  "server-name": { type: "string" },
} as const satisfies ParseArgsOptionsConfig;

export const ADDRESS_USAGE = `\
  --address HOST:PORT   the agent's API (STORAGE_NODE_LISTEN, or 127.0.0.1:50051)
  --socket PATH         the agent's Unix socket, on its own node (STORAGE_NODE_SOCKET)
  --ca FILE             speak TLS to the address: CAs that have signed the agent's certificate
  --cert FILE, --key FILE
                        the certificate that is shown to the agent, and its key
  --server-name NAME    the name in the agent's certificate, if it is not HOST`;

const DEFAULT_ADDRESS = "127.0.0.1:50051";

type Values = Readonly<Record<string, unknown>>;
type Environment = Readonly<Record<string, string | undefined>>;

/** Options win over the environment, which is that of the agent. Throws AddressFault. */
export function agentAddress(values: Values, env: Environment): AgentAddress {
  const text = (name: keyof typeof ADDRESS_OPTIONS) => {
    const value = values[name];
    return typeof value === "string" ? value : undefined;
  };
  const [address, socket, ca] = [text("address"), text("socket"), text("ca")];
  const [cert, key, serverName] = [text("cert"), text("key"), text("server-name")];
  if (socket !== undefined && (address ?? ca) !== undefined) {
    throw new AddressFault("--socket excludes --address and --ca");
  }
  if ((cert === undefined) !== (key === undefined)) {
    throw new AddressFault("--cert and --key belong together");
  }
  if (ca === undefined && (cert ?? serverName) !== undefined) {
    throw new AddressFault("--cert and --server-name need --ca: they are for TLS");
  }
  const own = address === undefined && ca === undefined ? set(env, "STORAGE_NODE_SOCKET") : "";
  const path = socket ?? own;
  if (path !== undefined && path !== "") return onSocket(path);
  const shown = address ?? listenAddress(env);
  if (ca !== undefined) return overTls(shown, { ca, cert, key, serverName });
  if (address === undefined && set(env, "STORAGE_NODE_TLS_CERT") !== undefined) {
    throw new AddressFault(
      "the agent speaks TLS: --ca, --cert and --key are needed, or STORAGE_NODE_SOCKET on its node",
    );
  }
  const insecure = { credentials: credentials.createInsecure(), options: {} };
  const grpcurl = `-plaintext ${shown}`;
  return { shown, grpcurl, target: shown, ...insecure, plain: true };
}

function set(env: Environment, name: string): string | undefined {
  return env[name] === "" ? undefined : env[name];
}

function onSocket(path: string): AgentAddress {
  return {
    shown: path,
    grpcurl: `-plaintext -unix ${path}`,
    target: `unix:${path}`,
    credentials: credentials.createInsecure(),
    options: {},
    plain: false,
  };
}

/** The address of the agent of this environment, as its own machine reaches it. */
function listenAddress(env: Environment): string {
  const listen = set(env, "STORAGE_NODE_LISTEN") ?? DEFAULT_ADDRESS;
  return listen.replace(/^0\.0\.0\.0:/, "127.0.0.1:").replace(/^\[::\]:/, "[::1]:");
}

function grpcurlFiles(files: TlsFiles): readonly string[] {
  const { ca, cert, key, serverName } = files;
  const own = cert === undefined || key === undefined ? [] : ["-cert", cert, "-key", key];
  return ["-cacert", ca, ...own, ...(serverName === undefined ? [] : ["-servername", serverName])];
}

type TlsFiles = Readonly<Record<"cert" | "key" | "serverName", string | undefined>> & {
  readonly ca: string;
};

function overTls(address: string, files: TlsFiles): AgentAddress {
  const read = (option: string, path: string) => {
    try {
      return readFileSync(path);
    } catch (error) {
      throw new AddressFault(`--${option}: ${error instanceof Error ? error.message : "no file"}`);
    }
  };
  const ca = read("ca", files.ca);
  const cert = files.cert === undefined ? null : read("cert", files.cert);
  const key = files.key === undefined ? null : read("key", files.key);
  const host = experimental.splitHostPort(address)?.host ?? address;
  const name = files.serverName ?? host;
  // TLS sends names only, no addresses: then the certificate is compared with the address here.
  const sent = isIP(name) === 0 ? name : "localhost";
  try {
    return {
      shown: address,
      grpcurl: [...grpcurlFiles(files), address].join(" "),
      target: address,
      credentials: credentials.createSsl(ca, key, cert, {
        checkServerIdentity: (_, certificate) => checkServerIdentity(name, certificate),
      }),
      options: { "grpc.ssl_target_name_override": sent },
      plain: false,
    };
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new AddressFault(`--ca, --cert or --key cannot be used: ${why}`);
  }
}
