// Rows to the lines of the local copy and back. Back come rows for restoring and for reads: everything
// that only a commit could use is as in a new row, and the rows of the database replace all of them.
import type { CopiedDisk, CopiedVolume, Copy } from "../local/copy-format.ts";
import { newControllerRow, type ControllerRow } from "../model/controller.ts";
import { DISK_STATES, newDiskRow, type DiskRow } from "../model/disk.ts";
import { newLvolRow, type LvolRow } from "../model/lvol.ts";
import type { NodeRow } from "./rows.ts";

const NOTHING_SHOWN = { socketMtimeNs: undefined, pid: undefined, clock: undefined };

/** Below that of every row of the database. */
const REVISION = 0n;

export function copiedDisk(row: DiskRow): CopiedDisk {
  return {
    id: row.id,
    serial: row.serial,
    model: row.model,
    nsid: row.nsid,
    transport: row.transport,
    address: row.address,
    controllerName: row.controllerName,
    storeName: row.lvsName,
    storeUuid: row.lvsUuid,
    sizeBytes: row.sizeBytes,
    blockSize: row.blockSize,
    admitted: row.admitted,
    wanted: row.wanted,
    state: row.state,
  };
}

export function copiedVolume(row: LvolRow): CopiedVolume {
  return {
    id: row.id,
    diskId: row.diskId,
    nqn: row.nqn,
    serialNumber: row.serialNumber,
    modelNumber: row.modelNumber,
    hosts: [...row.hosts],
    unconfirmedHosts: [...row.unconfirmedHosts],
    allowAnyHost: row.allowAnyHost,
    unconfirmed: row.unconfirmed,
    lvolUuid: row.lvolUuid,
    storeUuid: row.lvsUuid,
    sizeBytes: row.sizeBytes,
    promisedBytes: row.promisedBytes,
    thin: row.thin,
    qos: row.qos,
    exported: row.exported,
    cloning: row.cloning,
    nameTaken: row.nameTaken,
    maybeMade: row.maybeMade,
    deleteRequested: row.deleteRequestedTime,
  };
}

export type CopiedRows = {
  readonly node: NodeRow;
  readonly disks: readonly DiskRow[];
  readonly controllers: readonly ControllerRow[];
  readonly lvols: readonly LvolRow[];
};

export function rowsOf({ header, disks, volumes }: Copy): CopiedRows {
  const { nodeId, revision, time } = header;
  const targetProcess = header.targetProcess && { ...NOTHING_SHOWN, ...header.targetProcess };
  return {
    node: { nodeId, cordoned: false, revision, targetProcess },
    disks: disks.map((disk) => diskRow(disk, nodeId, time)),
    controllers: controllersOf(disks, nodeId, time),
    lvols: volumes.map((volume) => lvolRow(volume, nodeId, time)),
  };
}

/** Where the disks were attached: all that restoring needs to know of their controllers. */
function controllersOf(
  disks: readonly CopiedDisk[],
  nodeId: string,
  time: Date,
): readonly ControllerRow[] {
  const local = disks.filter(({ transport }) => transport === "PCIe");
  const rows = local.map(({ address: id, serial, model, controllerName }) =>
    newControllerRow(nodeId, { id, serial, model, controllerName, members: [id] }, time),
  );
  return [...new Map(rows.map((row) => [row.id, row])).values()];
}

function lvolRow(copied: CopiedVolume, nodeId: string, now: Date): LvolRow {
  const { storeUuid, deleteRequested, ...volume } = copied;
  const { id, diskId, nqn, promisedBytes, sizeBytes, thin, hosts, allowAnyHost, qos } = volume;
  const asked = { sizeBytes, thin, hosts, allowAnyHost, qos };
  const request = { ...asked, diskId: undefined, sourceSnapshotId: undefined };
  const fixed = { id, nodeId, diskId, request, promisedBytes, labels: {}, nqn };
  return {
    ...newLvolRow({ ...fixed, actor: undefined, traceparent: undefined, revision: REVISION, now }),
    ...volume,
    lvolUuid: volume.lvolUuid,
    qos,
    lvsUuid: storeUuid,
    observedGeneration: volume.lvolUuid === undefined ? 0n : 1n,
    deleteRequestedTime: deleteRequested,
    // A request of an earlier agent may be deleting its lvol, which must not be exported meanwhile.
    unexportedTime: deleteRequested,
  };
}

function diskRow(copied: CopiedDisk, nodeId: string, time: Date): DiskRow {
  const { storeName, storeUuid, controllerName, ...disk } = copied;
  return {
    ...newDiskRow(nodeId, { ...disk, controllerName }, time),
    ...disk,
    state: DISK_STATES.find((state) => state === disk.state) ?? "CLAIMING",
    stateReason: "",
    admittedSerial: disk.admitted ? disk.serial : undefined,
    observedGeneration: 1n,
    lvsName: storeName,
    lvsUuid: storeUuid,
    revision: REVISION,
  };
}
