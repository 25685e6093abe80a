// ResizeLvol and UpdateLvol: commit the intent and answer with the row, as lvols.ts. A wait_timeout waits
// for what the call asked for, whatever else of the volume is not as wanted.
import type { Lvol } from "../gen/storagenode/v1/lvol.ts";
import type { Mutation } from "../model/admission.ts";
import { lvolState, type VolumeView } from "../model/lvol-state.ts";
import type { LvolRow } from "../model/lvol.ts";
import { orphanBytes } from "../model/orphan.ts";
import { limitsSettled } from "../model/qos.ts";
import type { Agent } from "./agent.ts";
import type { CallContext, StorageNodeHandlers } from "./call.ts";
import * as requests from "./change-requests.ts";
import { isOver, messageOf } from "./lvols.ts";
import { requireRows } from "./preconditions.ts";
import { waitFor } from "./wait.ts";

export function changeHandlers(
  agent: Agent,
): Pick<StorageNodeHandlers, "resizeLvol" | "updateLvol"> {
  return {
    async resizeLvol(request, context) {
      const { waitMs, ...asked } = requests.resize(request);
      requireRows(agent);
      const row = agent.rows.lvol(asked.id);
      if (row !== undefined) await agent.refuseFatalGrowth(row);
      const mutation = {
        kind: "resize",
        ...asked,
        orphanBytes: orphanBytes(agent.orphans.known()),
        pendingOp: row && agent.pendingResize(row),
        ...byWhom(context),
      } as const;
      return await change(
        agent,
        mutation,
        { waitMs, context },
        ({ observed }, { promisedBytes }) => {
          return observed.lvol?.kind === "present" && observed.lvol.sizeBytes >= promisedBytes;
        },
      );
    },

    async updateLvol(request, context) {
      const { waitMs, ...asked } = requests.update(request);
      const mutation = { kind: "update", ...asked, ...byWhom(context) } as const;
      return await change(agent, mutation, { waitMs, context }, limitsSettled);
    },
  };
}

function byWhom({ actor, traceparent }: CallContext) {
  return { actor, traceparent };
}

/** isDone: whether what the committed row asks for was observed. */
async function change(
  agent: Agent,
  mutation: Extract<Mutation, { kind: "resize" | "update" }>,
  { waitMs, context }: { readonly waitMs: number; readonly context: CallContext },
  isDone: (view: VolumeView, asked: LvolRow) => boolean,
): Promise<{ lvol: Lvol | undefined }> {
  const decision = await agent.writer.mutate(mutation);
  if (decision.kind !== "lvol" || decision.row === undefined) return { lvol: undefined };
  const asked = decision.row;
  const { signal } = context;
  const row = await waitFor(agent, { id: asked.id, waitMs, signal }, (now) => {
    if (now.deleteRequestedTime !== undefined) return true;
    const view = agent.view(now);
    const state = lvolState(view);
    if (isOver(state)) return true;
    // What is wrong with other parts is not waited for.
    return isDone(view, asked) && (state !== "UP" || now.observedGeneration >= asked.generation);
  });
  return { lvol: messageOf(agent, row ?? asked) };
}
