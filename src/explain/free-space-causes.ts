// Why no lvol is made for a volume, though its disk is UP: free clusters may hold old bytes, or will.
import type { DiskRow } from "../model/disk.ts";
import type { VolumeView } from "../model/lvol-state.ts";
import { diskName, type Cause } from "./explanation.ts";

type Facts = {
  readonly view: VolumeView;
  readonly disk: DiskRow | undefined;
  readonly clean: boolean;
  readonly discardsNotZeroing: boolean;
};

export function discardCause({ view, disk, discardsNotZeroing }: Facts): Cause | undefined {
  const { row, observed } = view;
  if (!discardsNotZeroing || disk === undefined || row.lvolUuid !== undefined) return undefined;
  if (observed.lvol?.kind === "present") return undefined;
  return {
    cause:
      `it is thin, this SPDK release lets hosts free clusters by discards, and nobody has asserted ` +
      `that its ${diskName(disk)} zeroes these, so no lvol is created`,
    cure:
      `delete it and provision it as THICK; or call AdmitDisk with discard_zeroes if the drive does; ` +
      `or run SPDK 26.01 or later`,
    waits: "waits for another SPDK release, or for discard_zeroes",
  };
}

export function notZeroedCause({ view, disk, clean }: Facts): Cause | undefined {
  const { row, observed } = view;
  if (clean || disk === undefined || row.deleteRequestedTime !== undefined) return undefined;
  const { lvol } = observed;
  const there = lvol?.kind === "present";
  const [not, then] =
    row.lvolUuid === undefined && !there
      ? ["no new lvol is created", "created"]
      : row.cloning && !row.thin
        ? ["no thick clone is filled", "created"]
        : there && !row.cloning && lvol.sizeBytes < row.promisedBytes
          ? ["it is not grown", "grown"]
          : [];
  if (not === undefined) return undefined;
  return {
    cause: `free space of its ${diskName(disk)} may hold bytes of a deleted volume, so ${not} there`,
    cure: `call ZeroFreeSpace {"diskId": "${disk.id}"}: the volume is then ${then} by itself`,
    waits: "waits for the free space to be zeroed",
  };
}
