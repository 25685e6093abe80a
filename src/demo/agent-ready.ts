// Waits for the agent to become ready by polling its gRPC API, on its Unix socket.
import { credentials } from "@grpc/grpc-js";
import { setTimeout as sleep } from "node:timers/promises";
import type { KernelSpec } from "../sim/kernel/build-tree.ts";
import type { Disk, DiskStatus } from "../gen/storagenode/v1/disk.ts";
import { StorageNodeClient } from "../gen/storagenode/v1/storage_node.ts";

const POLL_MS = 100;

/**
 * Resolves with all disks once they and the agent are ready, which has restored all exports then; with the last list
 * when the signal aborts.
 */
export async function waitUntilReady(
  socket: string,
  isReady: (disks: readonly Disk[]) => boolean,
  signal: AbortSignal,
): Promise<readonly Disk[]> {
  const client = new StorageNodeClient(`unix:${socket}`, credentials.createInsecure());
  try {
    let found: readonly Disk[] = [];
    while (!signal.aborted) {
      const [listed, isServing] = await Promise.all([listDisks(client), isHealthy(client)]).catch(
        () => [found, false] as const,
      );
      found = listed;
      if (isServing && isReady(found)) return found;
      await sleep(POLL_MS, undefined, { signal }).catch(() => undefined);
    }
    return found;
  } finally {
    client.close();
  }
}

function listDisks(client: StorageNodeClient): Promise<readonly Disk[]> {
  return new Promise((resolve, reject) => {
    client.listDisks({ pageSize: 0, pageToken: "" }, (error, response) => {
      if (error === null) resolve(response.disks);
      else reject(error);
    });
  });
}

function isHealthy(client: StorageNodeClient): Promise<boolean> {
  return new Promise((resolve, reject) => {
    client.getHealth({}, (error, response) => {
      if (error === null) resolve(response.ready);
      else reject(error);
    });
  });
}

/**
 * All drives are listed and were looked at, but for those that a driver hides; with a policy that takes them, all are
 * UP. Disks of an earlier start, of which the machine has no drive any more, do not count.
 */
export function readiness({ drives }: KernelSpec, policy: string | undefined) {
  const shown = drives.filter(({ driver }) => driver === undefined);
  const isSeen = ({ state, conditions }: DiskStatus) =>
    policy === "auto"
      ? state === "DISK_STATE_UP"
      : !conditions.some(({ reason }) => reason === "NotLookedAt" || reason === "TargetAway");
  return (disks: readonly Disk[]): boolean => {
    const seen = disks.flatMap(({ status }) =>
      status !== undefined && isSeen(status) ? [status.serial] : [],
    );
    return shown.every(({ serial }) => seen.includes(serial));
  };
}
