// Watch: the present objects, `synced`, then each change as it is committed or observed.
import { WatchResponse } from "../gen/storagenode/v1/storage_node.ts";
import { diskState, type DiskRow } from "../model/disk.ts";
import { lvolState } from "../model/lvol-state.ts";
import type { LvolRow } from "../model/lvol.ts";
import { snapshotState, type SnapshotRow } from "../model/snapshot.ts";
import type { Agent } from "./agent.ts";
import type { StorageNodeHandlers } from "./call.ts";
import { diskMessageOf } from "./disks.ts";
import { messageOf } from "./lvols.ts";
import { requireRows } from "./preconditions.ts";
import * as requests from "./node-requests.ts";
import { snapshotMessageOf } from "./snapshots.ts";
import { Serialized } from "./serialized.ts";
import { WatchFeed } from "./watch-feed.ts";
import { watchedKind } from "./watched-kind.ts";

type Change = WatchResponse["change"];

/** The feed of an agent, to be told what is committed and observed. */
export function watchFeed(agent: Agent): WatchFeed {
  const { rows } = agent;
  const disk = watchedKind<DiskRow>({
    rows: () => rows.disks(),
    row: (id) => rows.disk(id),
    isUp: (row) => diskState(row, agent.diskReadiness(row)) === "UP",
    encode: (row) => encode({ $case: "disk", value: diskMessageOf(agent, row) }),
  });
  const lvol = watchedKind<LvolRow>({
    rows: () => rows.lvols(),
    row: (id) => rows.lvol(id),
    isUp: (row) => lvolState(agent.view(row)) === "UP",
    encode: (row) => encode({ $case: "lvol", value: messageOf(agent, row) }),
  });
  const snapshot = watchedKind<SnapshotRow>({
    rows: () => rows.snapshots.all(),
    row: (id) => rows.snapshots.get(id),
    isUp: (row) => snapshotState(agent.snapshotView(row)) === "UP",
    encode: (row) => encode({ $case: "snapshot", value: snapshotMessageOf(agent, row) }),
  });
  return new WatchFeed({
    kinds: { disk, lvol, snapshot },
    // Rows of the local copy are replaced when the database is read: nobody may resume from them.
    revision: () => (rows.copied ? 0n : (rows.node?.revision ?? 0n)),
    onHold: () => agent.hold() !== undefined,
  });
}

export function watchHandlers(agent: Agent, feed: WatchFeed): Pick<StorageNodeHandlers, "watch"> {
  return {
    async *watch(request, { signal }) {
      const { fromRevision, bookmarkMs } = requests.watch(request);
      requireRows(agent);
      using reader = await feed.open(fromRevision);
      const synced = encode({ $case: "synced", value: true }, feed.sentRevision);
      for (const message of reader.first) yield serialized(message);
      yield serialized(synced);
      let bookmarkAtMs = bookmarkMs && performance.now() + bookmarkMs;
      while (!signal.aborted) {
        const message = reader.take();
        if (message !== undefined) {
          yield serialized(message);
          continue;
        }
        const waitMs = bookmarkAtMs && bookmarkAtMs - performance.now();
        if (bookmarkMs !== undefined && waitMs !== undefined && waitMs <= 0) {
          bookmarkAtMs = performance.now() + bookmarkMs;
          yield serialized(encode({ $case: "bookmark", value: true }, feed.sentRevision));
        } else await feed.wait(waitMs, signal);
      }
    },
  };
}

function encode(change: Change, revision = 0n): Buffer {
  return Buffer.from(WatchResponse.encode({ revision, change }).finish());
}

function serialized(message: Buffer): Serialized<WatchResponse> {
  return new Serialized(message);
}
