// What the connected release can do (VERSIONS sections 0 to 2). Decided once per connection, as a
// restart may bring another release up.

import type { Version } from "./replies-target.ts";

export type Capabilities = {
  readonly release: readonly [major: number, minor: number];
  /** For logs and GetNode. */
  readonly version: string;
  /** How bdev_get_iostat is told which bdevs: several `names`, or one `name`. */
  readonly iostatFilter: "name" | "names";
  /** Several changes of one subsystem may be in flight; without it each waits for the last. */
  readonly pipelinePerSubsystem: boolean;
};

/** The target is older than anything measured: the agent changes nothing there. */
export class UnsupportedRelease extends Error {
  constructor(version: string) {
    super(`unsupported target release ${version}, needs 24.01 or newer`);
    this.name = "UnsupportedRelease";
  }
}

/** An unknown newer release is taken for the newest known one. Throws UnsupportedRelease. */
export function capabilitiesOf({ major, minor, version }: Version): Capabilities {
  const since = (year: number, month: number): boolean =>
    major > year || (major === year && minor >= month);
  if (!since(24, 1)) throw new UnsupportedRelease(version);
  return {
    release: [major, minor],
    version,
    iostatFilter: since(26, 5) ? "names" : "name",
    pipelinePerSubsystem: since(24, 9),
  };
}
