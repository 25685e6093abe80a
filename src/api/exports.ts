// GetExport and ListExports: what a compute node asks. Answered from memory: rows as committed and
// what the target showed in this run.
import type { GetExportResponse } from "../gen/storagenode/v1/storage_node.ts";
import { Refusal } from "../model/errors.ts";
import type { LvolRow, VolumeView } from "../model/lvol.ts";
import type { Agent } from "./agent.ts";
import type { StorageNodeHandlers } from "./call.ts";
import { requireRows } from "./lvols.ts";
import { exportMessage } from "./messages.ts";
import { page } from "./page.ts";
import * as requests from "./requests.ts";

export function exportHandlers(
  agent: Agent,
): Pick<StorageNodeHandlers, "getExport" | "listExports"> {
  const answers = new ExportAnswers();
  return {
    async getExport(request) {
      const { target, hostNqn } = requests.getExport(request);
      requireRows(agent);
      const row =
        target.kind === "id" ? agent.rows.lvol(target.id) : agent.rows.lvolByNqn(target.nqn);
      if (row === undefined || row.deleteTime !== undefined) {
        const name = target.kind === "id" ? `volume ${target.id}` : target.nqn;
        throw new Refusal("NOT_FOUND", `${name} is not on this node`);
      }
      return answers.of(agent.view(row), hostNqn);
    },

    async listExports(request) {
      const { hostNqn, pageSize, after } = requests.listExports(request);
      requireRows(agent);
      const allowed = (row: LvolRow) =>
        hostNqn === undefined || row.allowAnyHost || row.hosts.includes(hostNqn);
      const rows = [...agent.rows.lvols()].filter(
        (row) => row.deleteTime === undefined && allowed(row),
      );
      const { items, nextPageToken } = page(rows, { pageSize, after });
      const exports = items.map((row) => exportMessage(agent.view(row), hostNqn));
      return { exports, nextPageToken };
    },
  };
}

/** Volumes whose last answer is kept; beyond, all are forgotten at once. */
const MAX_ANSWERS = 20_000;

type Kept = {
  readonly view: VolumeView;
  readonly hostNqn: string | undefined;
  readonly answer: GetExportResponse;
};

/**
 * The last answer of each volume, given again as the same object while nothing that it is made of has
 * changed: hosts ask again and again, and what is the same need not be encoded twice (server.ts).
 */
class ExportAnswers {
  readonly #kept = new Map<string, Kept>();

  of(view: VolumeView, hostNqn: string | undefined): GetExportResponse {
    const { id } = view.row;
    const kept = this.#kept.get(id);
    if (kept !== undefined && kept.hostNqn === hostNqn && sameView(kept.view, view)) {
      return kept.answer;
    }
    const answer = { export: exportMessage(view, hostNqn) };
    if (this.#kept.size >= MAX_ANSWERS) this.#kept.clear();
    this.#kept.set(id, { view, hostNqn, answer });
    return answer;
  }
}

/** Rows and what was seen are never changed, only replaced. */
function sameView(a: VolumeView, b: VolumeView): boolean {
  return (
    a.row === b.row &&
    a.observed === b.observed &&
    a.targetConnected === b.targetConnected &&
    a.diskReady === b.diskReady &&
    a.diskReason === b.diskReason &&
    a.listenAddresses === b.listenAddresses
  );
}
