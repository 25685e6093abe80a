// AdoptDisk: reads what lies in a store that no row of this node knows, and makes rows of it. Nothing is changed
// on the target here: the loops give the store its name, and export nothing before somebody is allowed to connect.
import type { Config } from "../../config.ts";
import type { Decision, Mutation } from "../../model/admission.ts";
import type { DiskRow, LoadedStore } from "../../model/disk.ts";
import { Refusal } from "../../model/errors.ts";
import {
  familyRoots,
  foundLvolRow,
  foundSnapshotRow,
  type FoundLvol,
} from "../../model/found-lvol.ts";
import { isUuid } from "../../model/identity.ts";
import type { Intent } from "../../model/intent.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import { askingOne, requireTarget, storeLoading } from "../target/asking.ts";
import { foundLvols } from "../target/found-lvols.ts";
import type { ScanOptions } from "../target/full-scan.ts";
import type { Observed } from "../target/observed.ts";

export type AdoptDiskContext = {
  readonly config: Pick<Config, "nodeId" | "nqnPrefix">;
  readonly spdk: Pick<SpdkClient, "getBdev" | "getLvols" | "nvmfGetSubsystems">;
  readonly observed: Pick<Observed, "disk" | "incarnation">;
  readonly writer: { readonly mutate: (mutation: Mutation) => Promise<Decision> };
  readonly scanAll: (options: ScanOptions) => Promise<void>;
};

export type DiskAdoptions = {
  readonly contents: (diskId: string) => Promise<StoreContents | undefined>;
  readonly adopt: (
    asked: Intent & { readonly serial: string; readonly storeUuid: string },
  ) => Promise<DiskRow>;
};

export function diskAdoptions(context: AdoptDiskContext): DiskAdoptions {
  return {
    contents: (diskId) => storeContents(context, diskId),
    adopt: (asked) => adoptDisk(context, asked),
  };
}

/** What lies in a store. */
export type StoreContents = { readonly store: LoadedStore; readonly lvols: readonly FoundLvol[] };

/** Undefined: no store is loaded from the disk. Throws a Refusal if it is not known what lies in it. */
async function storeContents(
  { spdk, observed }: Pick<AdoptDiskContext, "spdk" | "observed">,
  diskId: string,
): Promise<StoreContents | undefined> {
  requireTarget(observed);
  const store = observed.disk(diskId)?.store;
  if (store === undefined) return undefined;
  const listed = async () => {
    const lvols = await spdk.getLvols({ uuid: store.uuid });
    if (lvols === undefined) throw storeLoading(diskId);
    return lvols;
  };
  const { lvols } = await askingOne(observed, () => foundLvols(spdk, listed()));
  return { store, lvols };
}

/** The disk's row with the store as its own. Throws a Refusal. */
async function adoptDisk(
  context: AdoptDiskContext,
  asked: Intent & { readonly serial: string; readonly storeUuid: string },
): Promise<DiskRow> {
  const { writer, scanAll } = context;
  const { id, storeUuid } = asked;
  const contents = await storeContents(context, id);
  if (contents?.store.uuid !== storeUuid) {
    const there = contents === undefined ? "none" : contents.store.uuid;
    throw new Refusal(
      "NO_STORE",
      `lvstore ${storeUuid} is not loaded from disk ${id}, but ${there}`,
    );
  }
  const rows = rowsOf(context, asked, contents);
  const decision = await writer.mutate({ kind: "adoptDisk", ...asked, ...rows });
  if (decision.kind !== "disk") throw new Error("the intent of an adoption did not lead to a disk");
  // What got no row is an orphan from now on.
  await scanAll({ sizes: true, subsystems: false });
  return decision.row;
}

/** Of what is named by an id. How the others clear their clusters is not known, as with an orphan. */
function rowsOf(
  { config: { nodeId, nqnPrefix } }: AdoptDiskContext,
  { id: diskId, actor }: Intent,
  { lvols }: StoreContents,
) {
  const now = new Date();
  const by = { nodeId, nqnPrefix, now, actor, labels: { adopted: now.toISOString() } };
  const roots = familyRoots(lvols, new Map());
  const place = ({ name }: FoundLvol) => ({ diskId, familyRoot: roots.get(name) ?? name });
  const named = lvols.filter(({ name }) => isUuid(name));
  return {
    lvols: named
      .filter(({ snapshot }) => !snapshot)
      .map((lvol) => ({ ...foundLvolRow(lvol, place(lvol), by), adopted: true })),
    exported: named.flatMap(({ name, subsystem }) =>
      subsystem === undefined ? [] : [`lvol ${name} is exported as ${subsystem.nqn}`],
    ),
    snapshots: named
      .filter(({ snapshot }) => snapshot)
      .map((lvol) => ({ ...foundSnapshotRow(lvol, place(lvol), by), adopted: true })),
  };
}
