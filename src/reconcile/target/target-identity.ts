// Tells which process of the target answers, and names its incarnation
// (docs/architecture.md#r3-target-and-incarnation). The name is kept only for a process that is known to be
// the same: pending ops of that name are taken for changes that were sent to this process.
import {
  continuityOf,
  sayTheSame,
  seenAgain,
  type Continuity,
  type TargetProcess,
} from "../../model/target-process.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import type { SpdkConnection } from "../../spdk/connection.ts";
import type { WriteMode } from "../../store/fence.ts";
import type { Rows } from "../../store/rows.ts";
import type { ConnectedHosts } from "./connected-hosts.ts";
import { newIncarnation, OwnerMarks, type OwnerMarksOptions } from "./owner-mark.ts";
import { readProcessFacts } from "./process-facts.ts";

export type TargetIdentityOptions = OwnerMarksOptions & {
  readonly spdk: SpdkClient;
  readonly connection: Pick<SpdkConnection, "connected" | "connectionNumber">;
  readonly rows: Pick<Rows, "node">;
  readonly spdkSocket: string;
  readonly connectedHosts: Pick<ConnectedHosts, "begin">;
  readonly writeMode: () => WriteMode;
  /** Keeps what identifies the process of the target, for the next agent. */
  readonly recordProcess: (targetProcess: TargetProcess) => void;
};

/** The write mode did not permit something: it takes one that permits any change, or every change. */
export type Missing = "any change" | "every change";

type Marked = { readonly mark: string | undefined; readonly missing: Missing | undefined };

export class TargetIdentity {
  readonly #options: TargetIdentityOptions;
  readonly marks: OwnerMarks;
  #process: TargetProcess | undefined;
  /** The connection that #process was seen on, and how that began: as long as it lasts, so does both. */
  #seenOn: { readonly connectionNumber: number; readonly continuity: Continuity } | undefined;

  constructor(options: TargetIdentityOptions) {
    this.#options = options;
    this.marks = new OwnerMarks(options);
  }

  /** The process that is connected, or was last; undefined until one was marked. */
  get process(): TargetProcess | undefined {
    return this.#process;
  }

  /** NQNs of the marks that this agent, or the last one that wrote the node's row, has made. */
  knownMarks(): readonly string[] {
    return this.#known().map(({ mark }) => this.marks.nqn(mark));
  }

  /**
   * marks: the marks of this node on the target. someBdev: name of a bdev, if there is one.
   * incarnation: undefined when the target could not be marked, as the write mode permits no change.
   */
  async identify(
    connectionNumber: number,
    marks: readonly string[],
    someBdev: string | undefined,
  ): Promise<{
    readonly continuity: Continuity;
    readonly incarnation: string | undefined;
    readonly missing: Missing | undefined;
  }> {
    const { spdk, spdkSocket, connection, connectedHosts } = this.#options;
    const seen = this.#seenOn?.connectionNumber === connectionNumber ? this.#seenOn : undefined;
    const known = seen === undefined ? this.#knownBy(marks) : this.#process;
    // A target without a mark is marked in one write with the questions.
    const [shown, made] = await Promise.all([
      readProcessFacts(spdk, spdkSocket, someBdev),
      marks.length === 0 ? this.#ensureMark(marks, seen && known?.mark) : undefined,
    ]);
    const now = seen === undefined ? continuityOf(known, shown, marks) : "same";
    const continuity = seen?.continuity ?? now;
    const kept = now === "same" ? known : undefined;
    const { mark, missing } = made ?? (await this.#ensureMark(marks, kept?.mark));
    if (!connection.connected || connection.connectionNumber !== connectionNumber)
      throw new Error("the connection to the target was lost");
    if (mark === undefined) return { continuity, incarnation: undefined, missing };
    if (now !== "same" && this.#process !== undefined) connectedHosts.begin();
    this.#process = kept === undefined ? { mark, ...shown } : seenAgain(kept, shown);
    this.#seenOn = { connectionNumber, continuity };
    this.record();
    return { continuity, incarnation: mark, missing };
  }

  /** The transport of the process refuses discards: this agent has made it so. */
  discardsMasked(): void {
    if (this.#process === undefined) return;
    this.#process = { ...this.#process, discardsMasked: true };
    this.record();
  }

  /** Has the process recorded, unless it is. */
  record(): void {
    const { rows, recordProcess, writeMode } = this.#options;
    if (this.#process === undefined || writeMode() === "read-only") return;
    if (!sayTheSame(rows.node?.targetProcess, this.#process)) recordProcess(this.#process);
  }

  #known(): readonly TargetProcess[] {
    const all = [this.#process, this.#options.rows.node?.targetProcess];
    return all.filter((known) => known !== undefined);
  }

  /** What the process that answers is compared with. */
  #knownBy(marks: readonly string[]): TargetProcess | undefined {
    const all = this.#known();
    return all.find(({ mark }) => marks.includes(mark)) ?? all[0];
  }

  /** Leaves one mark on the target: the one to keep, else a new one. */
  async #ensureMark(marks: readonly string[], keep: string | undefined): Promise<Marked> {
    const { writeMode } = this.#options;
    const mark = keep ?? newIncarnation();
    if (!marks.includes(mark)) {
      if (writeMode() === "read-only") return { mark: keep, missing: "any change" };
      await this.marks.create(mark);
    }
    const others = marks.filter((other) => other !== mark);
    if (others.length === 0) return { mark, missing: undefined };
    if (writeMode() !== "read-write") return { mark, missing: "every change" };
    await Promise.all(others.map((other) => this.marks.remove(other)));
    return { mark, missing: undefined };
  }
}
