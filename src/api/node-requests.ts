// Validation of the requests about the whole node: Watch, ListEvents, Cordon and Uncordon. As requests.ts.
import type {
  CordonRequest,
  ListEventsRequest,
  UncordonRequest,
  WatchRequest,
} from "../gen/storagenode/v1/storage_node.ts";
import { BOOKMARK_MAX_MS, BOOKMARK_MIN_MS } from "../limits.ts";
import { Fields } from "./fields.ts";

/** objectId undefined: of the node and all its objects. */
export function listEvents(
  { objectId, ...message }: ListEventsRequest,
  nodeId: string,
): {
  readonly objectId: string | undefined;
  readonly pageSize: number;
  readonly before: bigint | undefined;
} {
  const fields = new Fields();
  const isEventId = (text: string) => /^[1-9]\d{0,17}$/.test(text);
  const { pageSize, after } = fields.paging(message, isEventId);
  const ofNode = objectId === nodeId;
  const known = ofNode ? nodeId : fields.optionalUuid("object_id", objectId);
  fields.done();
  return { objectId: known, pageSize, before: after === undefined ? undefined : BigInt(after) };
}

/** bookmarkMs undefined: no bookmarks. */
export function watch(message: WatchRequest): {
  readonly fromRevision: bigint;
  readonly bookmarkMs: number | undefined;
} {
  const fields = new Fields();
  const { fromRevision, bookmarkInterval } = message;
  if (bookmarkInterval === undefined) return { fromRevision, bookmarkMs: undefined };
  const limits = { min: BOOKMARK_MIN_MS, max: BOOKMARK_MAX_MS, unset: 0 };
  const bookmarkMs = fields.durationMs("bookmark_interval", bookmarkInterval, limits);
  return fields.doneWith({ fromRevision, bookmarkMs });
}

/** diskId undefined: the whole node. */
export function cordon(message: CordonRequest): {
  readonly diskId: string | undefined;
  readonly reason: string;
} {
  const fields = new Fields();
  const reason = fields.reason("reason", message.reason);
  return fields.doneWith({ diskId: fields.optionalUuid("disk_id", message.diskId), reason });
}

export function uncordon({ diskId }: UncordonRequest): { readonly diskId: string | undefined } {
  const fields = new Fields();
  return fields.doneWith({ diskId: fields.optionalUuid("disk_id", diskId) });
}
