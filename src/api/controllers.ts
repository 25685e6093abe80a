// ListControllers.
import { Controller } from "../gen/storagenode/v1/node.ts";
import { hasDrive, type ControllerRow } from "../model/controller.ts";
import type { Agent } from "./agent.ts";
import type { StorageNodeHandlers } from "./call.ts";
import { page } from "./page.ts";
import { requireRows } from "./preconditions.ts";
import * as requests from "./requests.ts";

export function controllerHandlers(agent: Agent): Pick<StorageNodeHandlers, "listControllers"> {
  return {
    async listControllers(request) {
      const wanted = requests.paging(request);
      requireRows(agent);
      const messages = (rows: readonly ControllerRow[]) => rows.map((row) => message(agent, row));
      const shown = { messages, type: Controller };
      const { items, nextPageToken } = page(agent.rows.controllers(), wanted, shown);
      return { controllers: items, nextPageToken };
    },
  };
}

function message(agent: Agent, row: ControllerRow): Controller {
  const { id, driver, iommuGroup, serial, model, state, stateReason, lastError } = row;
  const others = [...agent.rows.controllers()].filter(
    (other) => other.id !== id && iommuGroup !== undefined && other.iommuGroup === iommuGroup,
  );
  const disks = [...agent.rows.disks()].filter((disk) => hasDrive(row, disk));
  return {
    address: id,
    driver: driver ?? "",
    iommuGroup: iommuGroup ?? "",
    groupMembers: others.map((other) => other.id),
    serial: serial ?? "",
    model: model ?? "",
    diskIds: disks.map((disk) => disk.id),
    state,
    stateReason: stateReason === "" ? (lastError ?? "") : stateReason,
  };
}
