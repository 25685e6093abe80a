// What the connected SPDK release supports (docs/spdk-contract.md#release-differences). Determined
// once per connection, because a restart may start another release.

import type { Version } from "./replies-target.ts";

export type Capabilities = {
  readonly release: readonly [major: number, minor: number];
  /** The version text of the target, for logs and GetNode. */
  readonly version: string;
  /** The filter parameter of bdev_get_iostat: `names` (several bdevs) or `name` (one bdev). */
  readonly iostatFilter: "name" | "names";
  /** True: several changes of one subsystem may be in flight; false: one at a time. */
  readonly pipelinePerSubsystem: boolean;
  /** bdev_lvol_set_parent exists, without which no clone is made whose deletion clears its clusters. */
  readonly setParent: boolean;
  /** False: the target dies when a host writes into the part by which an lvol with a parent was grown. */
  readonly growsClones: boolean;
  readonly hostDiscards: HostDiscards;
};

/**
 * What keeps a host from returning clusters of a thin lvol to the store by discarding them
 * (docs/spdk-contract.md#discard-by-hosts).
 * - release: none of its discards does.
 * - subsystem: a limit that nvmf_create_subsystem sets (dmrsl).
 * - transport: a mask that nvmf_create_transport sets (masked_oncs).
 * - nothing.
 */
export type HostDiscards = "release" | "subsystem" | "transport" | "nothing";

/** Why no clone is made on a release without setParent. */
export function noClones({ version }: Pick<Capabilities, "version">): string {
  return `the target ${version} cannot give an lvol a parent: clones need SPDK 24.05 or newer`;
}

/** The release is older than the oldest measured one: the agent sends it no changes. */
export class UnsupportedRelease extends Error {
  constructor(version: string) {
    super(`unsupported target release ${version}, needs 24.01 or newer`);
    this.name = "UnsupportedRelease";
  }
}

/** An unknown newer release is treated as the newest known one. Throws UnsupportedRelease. */
export function capabilitiesOf({ major, minor, version, suffix }: Version): Capabilities {
  const since = (year: number, month: number): boolean =>
    major > year || (major === year && minor >= month);
  if (!since(24, 1)) throw new UnsupportedRelease(version);
  return {
    release: [major, minor],
    version,
    iostatFilter: since(26, 1) ? "names" : "name",
    pipelinePerSubsystem: since(24, 9),
    setParent: since(24, 5),
    growsClones: since(24, 5),
    hostDiscards: hostDiscards(),
  };

  function hostDiscards(): HostDiscards {
    if (!since(24, 5)) return "release";
    if (since(26, 5)) return "subsystem";
    // Ignored in silence where it is not known, and a "-pre" may lack what its release has.
    const masks = since(26, 1) && !(major === 26 && minor === 1 && suffix === "-pre");
    return masks ? "transport" : "nothing";
  }
}
