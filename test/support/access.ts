// The files with which an agent asks who calls, and clients that show it a certificate.
import { credentials, type ChannelCredentials } from "@grpc/grpc-js";
import { mkdir, rename, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { StorageNodeClient } from "../../src/gen/storagenode/v1/storage_node.ts";
import { Authority, type KeyPair } from "./certificates.ts";
import { temporaryFolder } from "./temporary-folder.ts";

export const SCHEDULER = "URI:spiffe://fleet.example/scheduler";
export const OPERATOR = "URI:spiffe://fleet.example/operator";
export const MONITOR = "DNS:prometheus.example";
export const COMPUTE = "DNS:compute-1.example";
export const HOST = "nqn.2026-11.io.example:compute-1";
export const OTHER_HOST = "nqn.2026-11.io.example:compute-2";

export const CLIENTS = [
  { san: SCHEDULER, roles: ["scheduler"] },
  { san: OPERATOR, roles: ["operator"] },
  { san: MONITOR, roles: ["monitor"] },
  { san: COMPUTE, roles: ["compute"], host_nqns: [HOST] },
  { san: "DNS:compute-2.example", roles: ["compute"], host_nqns: [OTHER_HOST] },
] as const;

export type AccessFiles = AsyncDisposable & {
  readonly authority: Authority;
  readonly folder: string;
  readonly env: Readonly<Record<string, string>>;
  readonly paths: {
    readonly cert: string;
    readonly key: string;
    readonly ca: string;
    readonly clients: string;
  };
  /** Makes all files anew, with what is given, as Kubernetes does: one symbolic link is switched. */
  readonly replace: (files: Partial<Content>) => Promise<void>;
  /** A certificate of the authority; the name as the file of clients has it. */
  readonly certificate: (name: string) => Promise<KeyPair>;
};

type Content = {
  readonly server: KeyPair;
  readonly ca: string;
  readonly clients: string;
};

export async function accessFiles(): Promise<AccessFiles> {
  const folder = await temporaryFolder();
  const authority = await Authority.root();
  const server = await authority.sign({ dns: ["localhost"], ip: ["127.0.0.1"] });
  let content: Content = { server, ca: authority.pem, clients: JSON.stringify(CLIENTS) };
  let version = 0;
  const current = join(folder.path, "current");
  const replace = async (files: Partial<Content>) => {
    content = { ...content, ...files };
    version += 1;
    const made = join(folder.path, `version-${version}`);
    await writeAll(made, content);
    await symlink(made, join(folder.path, "next"));
    await rename(join(folder.path, "next"), current);
  };
  await replace({});
  const paths = {
    cert: join(current, "tls.crt"),
    key: join(current, "tls.key"),
    ca: join(current, "ca.crt"),
    clients: join(current, "clients.json"),
  };
  return {
    authority,
    folder: folder.path,
    paths,
    env: {
      STORAGE_NODE_TLS_CERT: paths.cert,
      STORAGE_NODE_TLS_KEY: paths.key,
      STORAGE_NODE_TLS_CA: paths.ca,
      STORAGE_NODE_CLIENTS: paths.clients,
    },
    replace,
    certificate: async (name) => await authority.sign(namesOf(name)),
    [Symbol.asyncDispose]: async () => await folder[Symbol.asyncDispose](),
  };
}

async function writeAll(folder: string, { server, ca, clients }: Content): Promise<void> {
  await mkdir(folder);
  await writeFile(join(folder, "tls.crt"), server.cert);
  await writeFile(join(folder, "tls.key"), server.key, { mode: 0o600 });
  await writeFile(join(folder, "ca.crt"), ca);
  await writeFile(join(folder, "clients.json"), clients);
}

export function namesOf(name: string) {
  const value = name.slice(4);
  return name.startsWith("URI:") ? { uri: [value] } : { dns: [value] };
}

export function shows(ca: string, pair?: KeyPair): ChannelCredentials {
  return credentials.createSsl(
    Buffer.from(ca),
    pair && Buffer.from(pair.key),
    pair && Buffer.from(pair.cert),
  );
}

/** A connection of its own, to the name that the certificate of the node has. */
export const OWN = {
  "grpc.use_local_subchannel_pool": 1,
  "grpc.ssl_target_name_override": "localhost",
} as const;

export type TlsClient = StorageNodeClient & Disposable;

export function tlsClient(address: string, how: ChannelCredentials): TlsClient {
  const client = new StorageNodeClient(address, how, OWN);
  return Object.assign(client, { [Symbol.dispose]: () => client.close() });
}
