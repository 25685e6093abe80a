// What callers of the API may ask about orphans, which no loop cares for.
import type { LvolRow } from "../../model/lvol.ts";
import type { Adoption, Orphan, Purge } from "../../model/orphan.ts";
import { requireTarget } from "../target/asking.ts";
import { adoptOrphan, type AdoptContext } from "./adopt-orphan.ts";
import { orphansOfDisk, orphansOfVolume } from "./orphans-of-volume.ts";
import { purgeOrphan, type PurgeContext } from "./purge-orphan.ts";

export type OrphanCalls = {
  /** Those that the full scans and the events of this incarnation have shown. */
  readonly known: () => readonly Orphan[];
  /** As `known`, once what was named so far has been read. */
  readonly list: () => Promise<readonly Orphan[]>;
  readonly ofVolume: (id: string) => Promise<readonly Orphan[]>;
  readonly ofDisk: (on: {
    readonly diskId: string;
    readonly storeUuid: string;
  }) => Promise<readonly Orphan[]>;
  /** The row of the volume that the orphan has become. */
  readonly adopt: (adoption: Adoption) => Promise<LvolRow>;
  readonly purge: (purge: Purge, signal: AbortSignal) => Promise<boolean>;
};

export function orphanCalls(context: PurgeContext & AdoptContext): OrphanCalls {
  const { observed, orphans } = context;
  const known = () => (observed.incarnation === undefined ? [] : orphans.list());
  return {
    known,
    list: async () => {
      requireTarget(observed);
      await orphans.settled();
      requireTarget(observed);
      return known();
    },
    adopt: (adoption) => adoptOrphan(context, adoption),
    ofVolume: (id) => orphansOfVolume(context, id),
    ofDisk: (on) => orphansOfDisk(context, on),
    purge: (purge, signal) => purgeOrphan(context, purge, signal),
  };
}
