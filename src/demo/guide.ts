// The text that the demo prints once everything runs: its disks, and calls to copy.
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import type { Disk } from "../gen/storagenode/v1/disk.ts";

const HOST = "nqn.2014-08.org.nvmexpress:uuid:7c5d1e9a-0001-4000-8000-000000000001";

export function guide(parts: {
  readonly listen: string;
  /** The agent asks its callers for a certificate. */
  readonly tls: boolean;
  readonly disks: readonly Disk[];
  readonly socket: string;
  /** The simulator's second socket, which reads and writes volumes as a host would. */
  readonly control: string;
  /** The Unix socket of the agent. */
  readonly api: string;
  readonly stateDir: string;
}): string {
  const { listen, tls, disks, socket, control, api, stateDir } = parts;
  const notUp = disks.filter(({ status }) => status?.state !== "DISK_STATE_UP").length;
  return `
${disks.map(diskLine).join("\n")}
${notUp === 0 ? "" : `\n${notUp} of the disks are not UP; GetHealth and their evidence say why.\n`}
${tls ? callsOverTls(listen) : calls(listen)}

On this machine, as an operator: node bin/storage-node.js status --socket ${api}
Logs are ${join(stateDir, "{agent,target}.log")}; the target's JSON-RPC socket is ${socket}.
Volumes are read and written at ${control} (docs/simulator.md).
README.md says what to break. Ctrl-C stops everything; the next start continues with the same data.`;
}

function calls(listen: string): string {
  // A new id per start: ProvisionLvol refuses the id of a deleted volume.
  const id = randomUUID();
  return `Copy and paste, in another terminal in this folder:

  buf() { node_modules/@bufbuild/buf/bin/buf curl --http2-prior-knowledge --protocol grpc "$@"; }
  api=http://${listen}/storagenode.v1.StorageNode

  buf $api/ListDisks

  buf -d '{"id": "${id}",
    "spec": {"sizeBytes": "10737418240", "allowedHostNqns": ["${HOST}"]},
    "waitTimeout": "5s"}' $api/ProvisionLvol

  buf -d '{"lvolId": "${id}"}' $api/GetExport

  buf -d '{"lvolId": "${id}", "waitTimeout": "5s"}' $api/Delete

or with grpcurl:

  grpcurl -plaintext ${listen} list
  grpcurl -plaintext ${listen} storagenode.v1.StorageNode/ListDisks`;
}

function callsOverTls(listen: string): string {
  return `${listen} speaks TLS, and asks for a client certificate (docs/security.md):

  node bin/storage-node.js status --address ${listen} --ca FILE --cert FILE --key FILE`;
}

function diskLine({ meta, status }: Disk): string {
  const state = status?.state.replace("DISK_STATE_", "") ?? "?";
  return `disk       ${status?.serial}  ${state}  ${meta?.id}`;
}
