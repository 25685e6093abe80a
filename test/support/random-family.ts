// Snapshots and clones in random histories: one snapshot and one clone of it for each volume.
import fc from "fast-check";
import { uuidV5 } from "../../src/model/identity.ts";
import { call, refusal, type TestAgent } from "./agent.ts";
import { readBack, type CrashScenario } from "./crash-scenario.ts";
import { lvolSpec } from "./volumes.ts";

const NAMESPACE = "0b6b7a52-90b5-4a67-8c07-2f3f1f4f5b11";

const KINDS = ["snapshot", "clone", "delete snapshot", "delete clone"] as const;

export type FamilyCall = {
  readonly do: (typeof KINDS)[number];
  readonly slot: number;
  readonly wait: boolean;
};

export const familyCalls = (slot: fc.Arbitrary<number>): fc.Arbitrary<FamilyCall> =>
  fc.record({ do: fc.constantFrom(...KINDS), slot, wait: fc.boolean() }, { noNullPrototype: true });

export function isFamilyCall(one: { readonly do: string } | FamilyCall): one is FamilyCall {
  return KINDS.some((kind) => kind === one.do);
}

/** Refusals that depend on what became of the volume or the snapshot before. */
const REFUSALS: readonly string[] = [
  "NOT_FOUND",
  "ID_RETIRED",
  "SOURCE_NOT_UP",
  "CORDONED",
  "DISK_NOT_UP",
  "FREE_SPACE_NOT_ZEROED",
];

/** What was asked for the snapshot and the clone of one volume. */
export class Family {
  readonly snapshotId: string;
  readonly cloneId: string;
  readonly #source: { readonly id: string; readonly sizeBytes: bigint };
  readonly #asked = new Set<FamilyCall["do"]>();

  constructor(source: { readonly id: string; readonly sizeBytes: bigint }) {
    this.#source = source;
    this.snapshotId = uuidV5(NAMESPACE, `${source.id} snapshot`);
    this.cloneId = uuidV5(NAMESPACE, `${source.id} clone`);
  }

  /** True: answered, if only by a refusal that the history may cause; false: the outcome is unknown. */
  async send(one: Pick<FamilyCall, "do" | "wait">, agent: TestAgent): Promise<boolean> {
    this.#asked.add(one.do);
    const waitTimeout = one.wait ? { seconds: 3n, nanos: 0 } : undefined;
    try {
      await this.#send(one.do, agent, waitTimeout);
      return true;
    } catch (error) {
      if (error instanceof Error && error.message === "Channel has been shut down") return false;
      const { code, reason } = await refusal(Promise.reject(error));
      if (REFUSALS.includes(reason)) return true;
      // UNAVAILABLE, CANCELLED, DEADLINE_EXCEEDED
      if ([14, 1, 4].includes(code)) return false;
      throw error;
    }
  }

  async #send(
    kind: FamilyCall["do"],
    { client }: TestAgent,
    waitTimeout: { readonly seconds: bigint; readonly nanos: number } | undefined,
  ): Promise<void> {
    const options = { deadline: Date.now() + 5_000 };
    const { snapshotId, cloneId } = this;
    const forced = { force: false, reason: "" };
    switch (kind) {
      case "snapshot": {
        const spec = { sourceLvolId: this.#source.id, labels: {} };
        const request = { id: snapshotId, spec, waitTimeout };
        await call(client, client.snapshot.bind(client), request, options);
        return;
      }
      case "clone": {
        const { sizeBytes } = this.#source;
        const spec = lvolSpec({ sizeBytes: 4n * sizeBytes, sourceSnapshotId: snapshotId });
        const request = { id: cloneId, spec, waitTimeout, validateOnly: false };
        await call(client, client.provisionLvol.bind(client), request, options);
        return;
      }
      case "delete snapshot": {
        const target = { $case: "snapshotId" as const, value: snapshotId };
        const request = { target, waitTimeout, deferred: true, ...forced };
        await call(client, client.delete.bind(client), request, options);
        return;
      }
      case "delete clone": {
        const target = { $case: "lvolId" as const, value: cloneId };
        const request = { target, waitTimeout, deferred: false, ...forced };
        await call(client, client.delete.bind(client), request, options);
      }
    }
  }

  /** Repeats what was asked for, in the order in which one needs the other; true: all was answered. */
  async repeat(agent: TestAgent): Promise<boolean> {
    for (const kind of KINDS) {
      if (this.#asked.has(kind) && !(await this.send({ do: kind, wait: true }, agent)))
        return false;
    }
    return true;
  }

  /**
   * What is there at rest, by the agent's own rows; throws if anything is between two states, or does not
   * agree with what was asked for.
   */
  atRest(agent: TestAgent): {
    readonly lvols: readonly string[];
    readonly exported: readonly string[];
  } {
    const { rows, view, snapshotView } = agent.node.agent;
    const snapshot = rows.snapshots.get(this.snapshotId);
    const clone = rows.lvol(this.cloneId);
    const there = (row: { readonly deleteTime: Date | undefined } | undefined) =>
      row !== undefined && row.deleteTime === undefined;
    const snapshotThere = there(snapshot) && snapshot?.failed === false;
    const cloneThere = there(clone);
    if (this.#asked.has("delete clone") && cloneThere) throw new Error("the clone was not deleted");
    if (this.#asked.has("delete snapshot") && snapshotThere) {
      const { made } = snapshotView(snapshot).clones;
      if (made.length < 2) throw new Error(`a snapshot with ${made.length} clones was not deleted`);
    }
    if (cloneThere && clone !== undefined && clone.observedGeneration !== clone.generation) {
      throw new Error(`the clone is not as wanted: ${JSON.stringify(view(clone).failures)}`);
    }
    return {
      lvols: [...(snapshotThere ? [this.snapshotId] : []), ...(cloneThere ? [this.cloneId] : [])],
      exported: cloneThere ? [this.cloneId] : [],
    };
  }

  /** Throws if the clone shows anything but what its volume had, or nothing. */
  checkBytes(scenario: CrashScenario, agent: TestAgent, byte: number): void {
    const { rows } = agent.node.agent;
    for (const id of [this.snapshotId, this.cloneId]) {
      const uuid = (rows.lvol(id) ?? rows.snapshots.get(id))?.lvolUuid;
      const bytes = uuid === undefined ? undefined : readBack(scenario, uuid);
      if (bytes === undefined) continue;
      const shown = [...bytes.written, ...bytes.rest].filter((one) => one !== 0 && one !== byte);
      if (shown.length > 0 || bytes.rest.some((one) => one !== 0)) {
        throw new Error(`${id} shows ${JSON.stringify(bytes)}, of its volume is ${byte}`);
      }
    }
  }
}
