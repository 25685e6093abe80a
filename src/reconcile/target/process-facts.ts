// Reads what tells one process of the target from another
// (docs/spdk-contract.md#which-process-of-the-target). What the target refuses to tell is left out.
import { stat } from "node:fs/promises";
import type { ProcessClock, ProcessFacts } from "../../model/target-process.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import { SpdkError } from "../../spdk/errors.ts";
import type { Reactors } from "../../spdk/replies-target.ts";

type Reads = Pick<
  SpdkClient,
  "capabilities" | "bdevGetIostat" | "frameworkGetReactors" | "tracePid"
>;

/** When the file of the socket was made, in ns; undefined when it is not there. */
export async function socketMtimeNs(path: string): Promise<bigint | undefined> {
  try {
    return (await stat(path, { bigint: true })).mtimeNs;
  } catch {
    return undefined;
  }
}

/**
 * @param someBdev name of any bdev: releases that cannot be asked for no bdev at all are asked for this
 *   one, as the counters of all would block I/O
 */
export async function readProcessFacts(
  spdk: Reads,
  path: string,
  someBdev: string | undefined,
): Promise<ProcessFacts> {
  const { iostatFilter } = await spdk.capabilities();
  const some = someBdev === undefined ? undefined : [someBdev];
  // The two belong to one moment: they go out in one write.
  const [mtime, iostat, reactors] = await Promise.all([
    socketMtimeNs(path),
    refusedAsUndefined(spdk.bdevGetIostat(iostatFilter === "names" ? [] : some)),
    refusedAsUndefined(spdk.frameworkGetReactors()),
  ]);
  const pid = reactors?.pid ?? (await refusedAsUndefined(spdk.tracePid()));
  const clock =
    reactors === undefined || iostat === undefined ? undefined : clockOf(reactors, iostat);
  return { socketMtimeNs: mtime, pid, clock };
}

function clockOf(
  { pid, reactors }: Reactors,
  { ticks, tickRate }: { readonly ticks: bigint; readonly tickRate: bigint },
): ProcessClock | undefined {
  // The main reactor runs in the first thread of the process; with the dynamic scheduler only it counts on.
  const main = reactors.find(({ tid }) => tid !== undefined && tid === pid) ?? reactors[0];
  if (main === undefined || main.inInterrupt) return undefined;
  return { startTicks: ticks - main.busy - main.idle, ticks, tickRate };
}

async function refusedAsUndefined<T>(reading: Promise<T>): Promise<T | undefined> {
  try {
    return await reading;
  } catch (error) {
    if (error instanceof SpdkError) return undefined;
    throw error;
  }
}
