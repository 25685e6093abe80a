// What the drivers, the disks and the session with the target share: what was observed of the target,
// what is not known of it, and the lanes in which it is changed.
import type { DiskRow } from "../model/disk.ts";
import type { OutcomeSubject } from "../model/unknown-outcome.ts";
import type { PendingContext } from "../model/pending-op.ts";
import { Lanes } from "./engine/lanes.ts";
import { NewVolumes } from "./lvol/new-volumes.ts";
import type { ReconcilerOptions } from "./reconciler-options.ts";
import { freeingDisk } from "./disk/free-space.ts";
import { Pulse } from "../spdk/pulse.ts";
import { HealthLoop } from "./disk/health.ts";
import { Slices } from "./disk/slices.ts";
import { IostatLoop } from "./target/iostat.ts";
import { Observed, type ObservedChange } from "./target/observed.ts";
import { Orphans } from "./target/orphans.ts";
import { ReturnedLvols } from "./target/returned-lvols.ts";
import { StoreSpace } from "./target/store-space.ts";
import { UnknownOutcomes } from "./target/unknown-outcomes.ts";

export type SharedParts = ReturnType<typeof sharedParts>;

export function sharedParts(
  options: ReconcilerOptions,
  on: {
    readonly pending: (now: Date) => PendingContext;
    /** Resolves once a request whose connection was lost can no longer be running. */
    readonly afterLoss: () => Promise<void>;
    readonly onObserved: (change: ObservedChange) => void;
    readonly onOutcomeKnown: (id: string, of: OutcomeSubject) => void;
    /** Rows of deleted volumes were brought back. */
    readonly onRestored: () => void;
    readonly scanDisks: () => Promise<void>;
    /** The target fell silent, or answers again. */
    readonly onPulse: () => void;
  },
) {
  const { config, fence, connection } = options;
  const writeMode = () => fence.writeMode;
  const observed: Observed = new Observed(on.onObserved, (id, volume) =>
    freeingDisk({ rows: options.rows, guard: observed.discardGuard }, id, volume),
  );
  const outcomes = new UnknownOutcomes({
    connectionNumber: () => connection.connectionNumber,
    onEnd: on.onOutcomeKnown,
  });
  const { targetSilenceMs: silenceMs } = config;
  const pulse: Pulse = new Pulse({
    connection,
    silenceMs,
    onChange: () => {
      observed.setSilent(pulse.silentSince !== undefined);
      on.onPulse();
    },
  });
  const { onRestored, pending, afterLoss, scanDisks } = on;
  const returned = new ReturnedLvols({ ...options, writeMode, onRestored });
  const isStoreLoaded = ({ id, lvsUuid }: DiskRow) => observed.disk(id)?.store?.uuid === lvsUuid;
  const orphans = new Orphans({ ...options, ...config, returned, isStoreLoaded });
  const newVolumes = new NewVolumes(() => fence.epoch);
  const iostat = new IostatLoop({ ...options, observed, scanDisks });
  const space = new StoreSpace({ ...options, observed });
  const slices = new Slices(observed);
  const health = new HealthLoop({
    ...options,
    observed,
    onChange: (id) => on.onObserved({ kind: "health", id }),
  });
  const known = {
    observed,
    outcomes,
    orphans,
    returned,
    newVolumes,
    iostat,
    space,
    slices,
    health,
    pulse,
  };
  const asked = { afterLoss, writeMode, pending, scanDisks };
  return { ...options, ...known, ...asked, lanes: new Lanes() };
}
