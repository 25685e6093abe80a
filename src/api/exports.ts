// GetExport and ListExports: what a compute node asks. Answered from memory: rows as committed and
// what the target showed in this run.
import { Refusal } from "../model/errors.ts";
import type { LvolRow } from "../model/lvol.ts";
import type { Agent } from "./agent.ts";
import type { StorageNodeHandlers } from "./call.ts";
import { requireRows } from "./lvols.ts";
import { exportMessage } from "./messages.ts";
import { page } from "./page.ts";
import * as requests from "./requests.ts";

export function exportHandlers(
  agent: Agent,
): Pick<StorageNodeHandlers, "getExport" | "listExports"> {
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
      return { export: exportMessage(agent.view(row), hostNqn) };
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
