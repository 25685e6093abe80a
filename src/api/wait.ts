// wait_timeout: waits until a row satisfies a test. An expired wait is not an error.
import type { DiskRow } from "../model/disk.ts";
import type { LvolRow } from "../model/lvol.ts";
import type { SnapshotRow } from "../model/snapshot.ts";
import type { Agent } from "./agent.ts";

type Wait = { readonly id: string; readonly waitMs: number; readonly signal: AbortSignal };

/**
 * The row when the test holds, waitMs has passed or the signal aborts; undefined if there is none.
 */
export function waitFor(
  agent: Pick<Agent, "rows">,
  wait: Wait,
  test: (row: LvolRow) => boolean,
): Promise<LvolRow | undefined> {
  return waitForRow(agent, wait, () => agent.rows.lvol(wait.id), test);
}

/** As waitFor, for a snapshot. */
export function waitForSnapshot(
  agent: Pick<Agent, "rows">,
  wait: Wait,
  test: (row: SnapshotRow) => boolean,
): Promise<SnapshotRow | undefined> {
  return waitForRow(agent, wait, () => agent.rows.snapshots.get(wait.id), test);
}

/** As waitFor, for a disk. */
export function waitForDisk(
  agent: Pick<Agent, "rows">,
  wait: Wait,
  test: (row: DiskRow) => boolean,
): Promise<DiskRow | undefined> {
  return waitForRow(agent, wait, () => agent.rows.disk(wait.id), test);
}

/** Nothing of an answered call stays: a timer would keep it, and its trace, for up to MAX_WAIT_MS. */
async function waitForRow<Row>(
  agent: Pick<Agent, "rows">,
  { id, waitMs, signal }: Wait,
  read: () => Row | undefined,
  test: (row: Row) => boolean,
): Promise<Row | undefined> {
  if (waitMs === 0) return read();
  const over = new AbortController();
  const end = () => over.abort();
  const timer = setTimeout(end, waitMs);
  signal.addEventListener("abort", end, { once: true });
  if (signal.aborted) end();
  try {
    await agent.rows.until(
      id,
      () => {
        const row = read();
        return row !== undefined && test(row);
      },
      over.signal,
    );
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", end);
  }
  return read();
}
