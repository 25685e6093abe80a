// The text that the demo prints once everything runs: its disks, and calls to copy.
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import type { Disk } from "../gen/storagenode/v1/disk.ts";

const HOST = "nqn.2014-08.org.nvmexpress:uuid:7c5d1e9a-0001-4000-8000-000000000001";

export function guide(parts: {
  readonly listen: string;
  readonly disks: readonly Disk[];
  readonly socket: string;
  /** The simulator's second socket, which reads and writes volumes as a host would. */
  readonly control: string;
  readonly stateDir: string;
}): string {
  const { listen, disks, socket, control, stateDir } = parts;
  // A new id per start: ProvisionLvol refuses the id of a deleted volume.
  const id = randomUUID();
  const notUp = disks.filter(({ status }) => status?.state !== "DISK_STATE_UP").length;
  return `
${disks.map(diskLine).join("\n")}
${notUp === 0 ? "" : `\n${notUp} of the disks are not UP; GetHealth and their evidence say why.\n`}
Copy and paste, in another terminal in this folder:

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
  grpcurl -plaintext ${listen} storagenode.v1.StorageNode/ListDisks

Logs are ${join(stateDir, "{agent,target}.log")}; the target's JSON-RPC socket is ${socket}.
Volumes are read and written at ${control} (docs/simulator.md).
README.md says what to break. Ctrl-C stops everything; the next start continues with the same data.`;
}

function diskLine({ meta, status }: Disk): string {
  const state = status?.state.replace("DISK_STATE_", "") ?? "?";
  return `disk       ${status?.serial}  ${state}  ${meta?.id}`;
}
