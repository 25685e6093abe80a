// Generated worlds for the laws of the volume loops (volume-world.ts): each possible, none likely.
import fc from "fast-check";
import { exportSerial } from "../../src/model/identity.ts";
import { ANY_HOST, type ListenAddress, type LvolRow } from "../../src/model/lvol.ts";
import type { PresentSubsystem } from "../../src/model/lvol-state.ts";
import { Observed } from "../../src/reconcile/target/observed.ts";
import { UnknownOutcomes } from "../../src/reconcile/target/unknown-outcomes.ts";
import { LISTENER, lvolRow, VOLUME } from "./model.ts";
import {
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
const ADDRESSES = [LISTENER, SECOND];

/** Each on its own; `worldOf` makes a possible world of them. */
const PARTS = {
  hosts: fc.subarray(HOSTS),
  presentHosts: fc.subarray(HOSTS),
  refusedHosts: fc.constant<string[]>([]),
  unconfirmedHosts: fc.constant<string[]>([]),
  unconfirmed: fc.constant<boolean>(false),
  maybeMade: fc.constant<boolean>(false),
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
  });
}

/** Makes a possible world of parts that are each possible. */
export function worldOf(is: Parts): World {
  const subsystem = is.subsystemThere ? subsystemOf(is) : undefined;
  const reachable = subsystem !== undefined && subsystem.listeners.length > 0;
  const letIn = (host: string) =>
    subsystem?.allowAnyHost === true || subsystem?.hosts.includes(host);
  const connected = reachable ? is.connected.filter(letIn) : [];
  const row = rowOf(is, connected);
  const target = { lvol: is.lvolThere ? LVOL : undefined, subsystem, connected };
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
    slow: is.slow,
    turn: 0,
    ended: false,
  };
}
