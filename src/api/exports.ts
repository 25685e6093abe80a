// GetExport and ListExports, for compute nodes, answered from memory: committed rows, and what was
// observed of the current incarnation of the target. They never ask the target. And ConfirmHosts, for
// operators.
import { Export } from "../gen/storagenode/v1/export.ts";
import type { GetExportResponse } from "../gen/storagenode/v1/storage_node.ts";
import { Refusal } from "../model/errors.ts";
import { noVolume } from "../model/intent.ts";
import type { VolumeView } from "../model/lvol-state.ts";
import { unconfirmedHostCount, type LvolRow } from "../model/lvol.ts";
import type { Agent } from "./agent.ts";
import type { StorageNodeHandlers } from "./call.ts";
import { requireRows } from "./preconditions.ts";
import { exportMessage, exportOfHosts } from "./export-message.ts";
import { page } from "./page.ts";
import * as requests from "./requests.ts";

export function exportHandlers(
  agent: Agent,
): Pick<StorageNodeHandlers, "getExport" | "listExports" | "confirmHosts"> {
  const answers = new ExportAnswers();
  return {
    async getExport(request, { caller }) {
      const { target, hostNqn } = requests.getExport(request);
      requireRows(agent);
      const row =
        target.kind === "id" ? agent.rows.lvol(target.id) : agent.rows.lvolByNqn(target.nqn);
      if (caller.hostNqns !== undefined) {
        const own = ownExport(caller.hostNqns, { row, hostNqn, named: nameOf(target) });
        return answers.of(agent.view(own), hostNqn, caller.hostNqns);
      }
      if (row === undefined || row.deleteTime !== undefined) {
        if (target.kind === "id")
          throw noVolume(target.id, agent.rows.snapshots.get(target.id) !== undefined);
        throw new Refusal("NOT_FOUND", `${target.nqn} is not on this node`);
      }
      return answers.of(agent.view(row), hostNqn, undefined);
    },

    async listExports(request) {
      const { hostNqn, pageSize, after } = requests.listExports(request);
      requireRows(agent);
      const allowed = (row: LvolRow) =>
        hostNqn === undefined || row.allowAnyHost || row.hosts.includes(hostNqn);
      const rows = [...agent.rows.lvols()].filter(
        (row) => row.deleteTime === undefined && allowed(row),
      );
      const messages = (page: readonly LvolRow[]) =>
        page.map((row) => exportMessage(agent.view(row), hostNqn));
      const shown = { messages, type: Export };
      const { items, nextPageToken } = page(rows, { pageSize, after }, shown);
      return { exports: items, nextPageToken };
    },

    async confirmHosts(request, { traceparent, actor }) {
      const asked = requests.confirmHosts(request);
      const intent = { kind: "confirmHosts", id: agent.nodeId, ...asked } as const;
      const decision = await agent.writer.mutate({ ...intent, traceparent, actor });
      return {
        confirmed: decision.kind === "hosts" ? decision.confirmed : 0,
        unconfirmed: unconfirmedHostCount(agent.rows.lvols()),
      };
    },
  };
}

type ExportTarget = ReturnType<typeof requests.getExport>["target"];

function nameOf(target: ExportTarget): string {
  return target.kind === "id" ? `volume ${target.id}` : target.nqn;
}

/**
 * The row, if one of the hosts may connect to it. Otherwise a Refusal, which is the same for a volume of
 * somebody else and for none: a compute node does not learn what others have.
 */
function ownExport(
  own: readonly string[],
  {
    row,
    hostNqn,
    named,
  }: {
    readonly row: LvolRow | undefined;
    readonly hostNqn: string | undefined;
    readonly named: string;
  },
): LvolRow {
  if (hostNqn !== undefined && !own.includes(hostNqn)) {
    const message = `${hostNqn} is no host of this client in STORAGE_NODE_CLIENTS`;
    throw new Refusal("EXPORT_NOT_ALLOWED", message);
  }
  const allowed =
    row?.deleteTime === undefined &&
    (row?.allowAnyHost === true || row?.hosts.some((host) => own.includes(host)) === true);
  if (row !== undefined && allowed) return row;
  const message = `no host of this client may connect to ${named}, if it is there at all`;
  throw new Refusal("EXPORT_NOT_ALLOWED", message);
}

/** Limit of cached answers, one per volume. When it is reached the whole cache is dropped. */
const MAX_ANSWERS = 20_000;

type CachedAnswer = {
  readonly view: VolumeView;
  readonly hostNqn: string | undefined;
  readonly only: readonly string[] | undefined;
  readonly answer: GetExportResponse;
};

/**
 * Caches the last answer of each volume and returns the same object while its inputs are unchanged:
 * hosts poll, and server.ts encodes an answer object only once.
 */
class ExportAnswers {
  readonly #cache = new Map<string, CachedAnswer>();

  /** only: the hosts that are shown; undefined: all. */
  of(
    view: VolumeView,
    hostNqn: string | undefined,
    only: readonly string[] | undefined,
  ): GetExportResponse {
    const { id } = view.row;
    const cached = this.#cache.get(id);
    const sameQuestion = cached?.hostNqn === hostNqn && cached?.only === only;
    if (cached !== undefined && sameQuestion && sameView(cached.view, view)) return cached.answer;
    const whole = exportMessage(view, hostNqn);
    const answer = { export: only === undefined ? whole : exportOfHosts(whole, only) };
    if (this.#cache.size >= MAX_ANSWERS) this.#cache.clear();
    this.#cache.set(id, { view, hostNqn, only, answer });
    return answer;
  }
}

/** Compares by identity: rows and observations are immutable and replaced on change. */
function sameView(a: VolumeView, b: VolumeView): boolean {
  return (
    a.row === b.row &&
    a.observed === b.observed &&
    a.failures === b.failures &&
    a.outcomeUnknown === b.outcomeUnknown &&
    a.subsystemUnknown === b.subsystemUnknown &&
    a.targetConnected === b.targetConnected &&
    a.diskReady === b.diskReady &&
    a.diskReason === b.diskReason &&
    a.listenAddresses === b.listenAddresses
  );
}
