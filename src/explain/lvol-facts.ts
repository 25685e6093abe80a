// What an explanation of a volume is made of, and the causes that lie in its disk.
import type { DiskRow, DiskState } from "../model/disk.ts";
import { diskName } from "../model/free-space.ts";
import type { VolumeView } from "../model/lvol-state.ts";
import { instant, type Cause, type NextStep, type NodeFacts } from "./explanation.ts";

export type LvolFacts = {
  readonly view: VolumeView;
  readonly disk: DiskRow | undefined;
  readonly diskState: DiskState | undefined;
  /** Read from the target for this explanation, like the next two; undefined without an answer. */
  readonly freeClusters: bigint | undefined;
  readonly allocatedClusters: bigint | undefined;
  readonly connectedHosts: readonly string[] | undefined;
  readonly node: NodeFacts;
  readonly steps: readonly NextStep[];
  /** A step was dispatched and is not answered yet. */
  readonly inFlight: boolean;
  /** The same of its disk. */
  readonly diskStep?: boolean | undefined;
  /** The last error of a loop for this volume, of any age. */
  readonly loopError: string | undefined;
};

/** What a volume or a snapshot lies on. */
export type OnDisk = Pick<LvolFacts, "disk" | "diskState" | "diskStep"> & {
  readonly view: Pick<VolumeView, "diskReady"> & { readonly row: { readonly diskId: string } };
};

export function diskCause({ view, disk, diskState, diskStep = false }: OnDisk): Cause | undefined {
  if (view.diskReady) return undefined;
  const { diskId } = view.row;
  if (disk === undefined) {
    return {
      cause: `its disk ${diskId} has no row on this node`,
      cure:
        `see ListDisks; "storage-node rebuild" inserts the rows of disks that hold lvstores ` +
        `of this node`,
      waits: `waits for disk ${diskId}`,
    };
  }
  if (disk.wanted === "release") return releasedCause(disk);
  const { address, lastSeenTime, stateReason, lastError, transport, serial } = disk;
  if (diskStep && diskState === "CLAIMING" && lastError === undefined) {
    return {
      cause: `its ${diskName(disk)} is being attached, or its store loaded`,
      cure:
        `wait: it comes UP with its disk, after a crash of the target in minutes; ` +
        `"storage-node explain disk ${disk.id}" says more`,
      waits: `waits for disk ${serial} to come UP`,
    };
  }
  const observed = `last seen at ${address}, there since ${instant(lastSeenTime)}`;
  const given = diskState === "MISSING" ? [stateReason] : [stateReason, lastError];
  const why = given.filter((text) => text !== undefined && text !== "");
  const reason = why.length === 0 ? "" : `: ${[...new Set(why)].join("; ")}`;
  const back =
    transport === "PCIe"
      ? `put the drive with serial ${serial} back, into any slot`
      : `make its target answer at ${address} again`;
  const missing = diskState === "MISSING" || (transport !== "PCIe" && diskState === "CLAIMING");
  return {
    cause: `its ${diskName(disk)} is ${diskState ?? disk.state}${reason} (${observed})`,
    cure: missing
      ? `${back}: disk and volume then come UP by themselves; "storage-node explain disk ` +
        `${disk.id}" says more`
      : `run "storage-node explain disk ${disk.id}": the volume comes UP with its disk`,
    waits: `waits for disk ${serial} to come UP`,
  };
}

function releasedCause(disk: DiskRow): Cause {
  const { id, serial } = disk;
  const done = disk.state === "RELEASED" ? "was released" : "is being released";
  return {
    cause: `its ${diskName(disk)} ${done} with what is on it; the events of the disk say who asked and why`,
    cure:
      `if the drive is still in this machine, call AdmitDisk {"diskId": "${id}", "serial": "${serial}"}: ` +
      `disk and volume then come UP again; else call Delete for the volume`,
    waits: "waits for AdmitDisk or Delete",
  };
}
