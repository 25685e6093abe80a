// Generated worlds for the laws of the volume loops (volume-world.ts): each possible, none likely.
import fc from "fast-check";
import { exportSerial } from "../../src/model/identity.ts";
import {
  ANY_HOST,
  NO_LIMITS,
  type ListenAddress,
  type LvolRow,
  type QosLimits,
} from "../../src/model/lvol.ts";
import type { PendingOp } from "../../src/model/pending-op.ts";
import { realLimits } from "../../src/model/qos.ts";
import type { PresentSubsystem } from "../../src/model/lvol-state.ts";
import { Observed } from "../../src/reconcile/target/observed.ts";
import { UnknownOutcomes } from "../../src/reconcile/target/unknown-outcomes.ts";
import { CLUSTER, LISTENER, lvolRow, VOLUME } from "./model.ts";
import {
  EPOCH,
  HOSTS,
  isIn,
  loadStore,
  LVOL,
  NOW,
  OLD,
  RUN,
  SECOND,
  UUID,
  type World,
} from "./volume-world.ts";

const EARLIER_RUN = "fedcba9876543210";
/** Longer than any test, until the time passes. */
const GRACE_MS = 1e9;
export const LIMITS: QosLimits = { ...NO_LIMITS, rwIops: 1_500n, readMibPerSecond: 10n };
const ADDRESSES = [LISTENER, SECOND];

/** Each on its own; `worldOf` makes a possible world of them. */
const PARTS = {
  hosts: fc.subarray(HOSTS),
  presentHosts: fc.subarray(HOSTS),
  refusedHosts: fc.constant<string[]>([]),
  unconfirmedHosts: fc.constant<string[]>([]),
  unconfirmed: fc.constant<boolean>(false),
  maybeMade: fc.constant<boolean>(false),
  /** Its lvol was an orphan of another name. */
  adopted: fc.boolean(),
  anyHost: fc.boolean(),
  presentAnyHost: fc.boolean(),
  listenAddresses: fc.subarray(ADDRESSES, { minLength: 1 }),
  presentListeners: fc.subarray([...ADDRESSES, OLD]),
  refusedAddresses: fc.constant<ListenAddress[]>([]),
  deleting: fc.boolean(),
  forced: fc.boolean(),
  recorded: fc.boolean(),
  exported: fc.boolean(),
  unexported: fc.boolean(),
  lvolThere: fc.boolean(),
  lvolKnown: fc.boolean(),
  storeLoaded: fc.boolean(),
  subsystemThere: fc.boolean(),
  subsystemKnown: fc.boolean(),
  attached: fc.boolean(),
  stale: fc.boolean(),
  answerLost: fc.boolean(),
  connected: fc.subarray(HOSTS),
  connectedRecorded: fc.constantFrom("never", "now", "before"),
  returning: fc.subarray(HOSTS),
  wantedClusters: fc.constantFrom(3n, 5n),
  presentClusters: fc.constantFrom(3n, 5n, 7n),
  pendingResize: fc.constantFrom("none", "own", "interrupted", "over"),
  qos: fc.constantFrom<(QosLimits | undefined)[]>(undefined, LIMITS, { ...LIMITS, rwIops: 0n }),
  presentLimits: fc.constantFrom(NO_LIMITS, realLimits(LIMITS)),
  noRoom: fc.constant<boolean>(false),
  refusesQos: fc.constant<boolean>(false),
  slow: fc.array(fc.boolean(), { minLength: 1, maxLength: 8 }),
};

export type Parts = {
  [Key in keyof typeof PARTS]: (typeof PARTS)[Key] extends fc.Arbitrary<infer T> ? T : never;
};

/** The parts of any world in which these are as given. */
export function worlds(
  given: { readonly [Key in keyof Parts]?: fc.Arbitrary<Parts[Key]> } = {},
): fc.Arbitrary<Parts> {
  return fc.record({ ...PARTS, ...given });
}

function subsystemOf(is: Parts): PresentSubsystem {
  const attached = is.attached && is.lvolThere && is.storeLoaded;
  return {
    kind: "present",
    dmrsl: 1,
    serialNumber: exportSerial(VOLUME),
    allowAnyHost: is.presentAnyHost,
    hosts: is.presentHosts.filter((host) => !is.refusedHosts.includes(host)),
    listeners: is.presentListeners.filter((address) => !isIn(is.refusedAddresses, address)),
    namespaces: attached ? [{ nsid: 1, bdevName: UUID, uuid: VOLUME }] : [],
  };
}

function rowOf(is: Parts, connected: readonly string[]): LvolRow {
  const unexported = is.deleting && is.unexported && !is.subsystemThere;
  const when = is.connectedRecorded;
  const hosts = when === "before" ? is.returning : connected;
  return lvolRow({
    hosts: is.hosts,
    allowAnyHost: is.anyHost,
    unconfirmed: is.unconfirmed,
    maybeMade: is.maybeMade,
    adopted: is.adopted && is.recorded,
    unconfirmedHosts: is.unconfirmedHosts.filter(
      (host) => host === ANY_HOST || is.hosts.includes(host),
    ),
    lvolUuid: is.recorded ? UUID : undefined,
    exported: is.exported && is.recorded && !unexported,
    unexportedTime: unexported ? NOW : undefined,
    connectedHosts: when === "never" ? undefined : hosts,
    connectedIncarnation: when === "never" ? undefined : when === "now" ? RUN : EARLIER_RUN,
    deleteRequestedTime: is.deleting ? NOW : undefined,
    deleteForced: is.deleting && is.forced,
    generation: is.deleting ? 2n : 1n,
    promisedBytes: is.wantedClusters * CLUSTER,
    qos: is.qos,
    pendingOp: pendingResizeOf(is),
  });
}

function pendingResizeOf({ pendingResize, recorded }: Parts): PendingOp | undefined {
  if (pendingResize === "none" || !recorded) return undefined;
  const run = pendingResize === "interrupted" ? EARLIER_RUN : RUN;
  const epoch = pendingResize === "own" ? EPOCH : EPOCH - 1n;
  return { op: "resize", run, epoch, since: NOW, failed: false };
}

/** Makes a possible world of parts that are each possible. */
export function worldOf(is: Parts): World {
  const subsystem = is.subsystemThere ? subsystemOf(is) : undefined;
  const reachable = subsystem !== undefined && subsystem.listeners.length > 0;
  const letIn = (host: string) =>
    subsystem?.allowAnyHost === true || subsystem?.hosts.includes(host);
  const connected = reachable ? is.connected.filter(letIn) : [];
  const row = rowOf(is, connected);
  const name = row.adopted ? "by-hand" : VOLUME;
  // A row without a uuid finds what was made for it, which is not larger than wanted.
  const clusters = is.recorded ? is.presentClusters : 3n;
  const lvol = { ...LVOL, name, sizeBytes: clusters * CLUSTER, limits: is.presentLimits };
  const target = { lvol: is.lvolThere ? lvol : undefined, subsystem, connected };
  const observed = new Observed(() => undefined);
  observed.beginIncarnation(RUN, { earlierMayRun: false, discardGuard: "subsystem" });
  if (is.storeLoaded) loadStore(observed);
  const lvolKnown = is.lvolKnown && is.storeLoaded;
  if (lvolKnown) observed.setLvol(VOLUME, target.lvol ?? { kind: "absent" });
  if (is.subsystemKnown) observed.setSubsystem(VOLUME, subsystem ?? { kind: "absent" });
  if (is.stale || is.answerLost) observed.expireSubsystem(VOLUME);
  const outcomes = new UnknownOutcomes({
    connectionNumber: () => 1,
    onEnd: () => observed.expireSubsystem(VOLUME),
  });
  if (is.answerLost) {
    void outcomes.add(row.id, "subsystem", "nvmf_method", new Promise(() => undefined));
  }
  return {
    row,
    target,
    observed,
    outcomes,
    failures: new Map(),
    waiting: new Set(),
    listenAddresses: is.listenAddresses,
    refusedHosts: is.refusedHosts,
    refusedAddresses: is.refusedAddresses,
    returning: row.exported && is.connectedRecorded !== "now" ? is.returning : [],
    storeLoaded: is.storeLoaded,
    graceMs: GRACE_MS,
    unsafe: reachable && subsystem.namespaces.length === 0,
    noRoom: is.noRoom,
    refusesQos: is.refusesQos,
    slow: is.slow,
    turn: 0,
    ended: false,
    freeSpace: "ZEROED",
    graceUntil: NOW,
  };
}
