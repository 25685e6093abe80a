// The handlers of every call about disks.
import type { Agent } from "./agent.ts";
import type { StorageNodeHandlers } from "./call.ts";
import { adoptionHandlers } from "./disk-adopt.ts";
import { locateHandlers } from "./disk-locate.ts";
import { releaseHandlers } from "./disk-release.ts";
import { wipeHandlers } from "./disk-wipe.ts";
import { diskHandlers } from "./disks.ts";

export function allDiskHandlers(agent: Agent): Partial<StorageNodeHandlers> {
  return {
    ...diskHandlers(agent),
    ...adoptionHandlers(agent),
    ...releaseHandlers(agent),
    ...wipeHandlers(agent),
    ...locateHandlers(agent),
  };
}
