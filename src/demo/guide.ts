// What the demo prints once everything is up: what there is, and calls to copy.
import type { Disk } from "../gen/storagenode/v1/disk.ts";

export function guide(parts: {
  readonly listen: string;
  readonly disks: readonly Disk[];
  readonly logFile: string;
}): string {
  const { listen, disks, logFile } = parts;
  const service = `http://${listen}/storagenode.v1.StorageNode`;
  const buf = "node_modules/@bufbuild/buf/bin/buf curl --http2-prior-knowledge --protocol grpc";
  const id = "0b7c9a52-6c7e-4a53-9f0e-2f6a3c1d4e5f";
  const host = "nqn.2014-08.org.nvmexpress:uuid:7c5d1e9a-0001-4000-8000-000000000001";
  const provision =
    `{"id": "${id}", "spec": {"sizeBytes": "10737418240", ` +
    `"allowedHostNqns": ["${host}"]}, "waitTimeout": "5s"}`;
  const lines = [
    "",
    ...disks.map(({ meta, status }) => {
      const state = status?.state.replace("DISK_STATE_", "") ?? "?";
      return `disk       ${status?.serial}  ${state}  ${meta?.id}`;
    }),
    "",
    "Copy and paste, in another terminal in this folder:",
    "",
    `  ${buf} ${service}/ListDisks`,
    "",
    `  ${buf} -d '${provision}' ${service}/ProvisionLvol`,
    "",
    `  ${buf} -d '{"lvolId": "${id}"}' ${service}/GetExport`,
    "",
    `  ${buf} -d '{"lvolId": "${id}", "waitTimeout": "5s"}' ${service}/Delete`,
    "",
    `or  grpcurl -plaintext ${listen} list`,
    "",
    `The agent's log is ${logFile}. Ctrl-C stops everything; start again to go on with the same data.`,
  ];
  return lines.join("\n");
}
