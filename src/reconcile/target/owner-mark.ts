// The owner mark: a subsystem without listeners, hosts and namespaces whose NQN names fleet, node and
// incarnation (docs/architecture.md#r3-target-and-incarnation).
//
// It never removes the mark of another fleet or node.
import { randomBytes } from "node:crypto";
import { fleetHash, ownerNqn, parseOwnerNqn, type OwnerMark } from "../../model/identity.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import type { Subsystem } from "../../spdk/replies-nvmf.ts";

export type OwnerMarksOptions = {
  readonly spdk: Pick<SpdkClient, "nvmfCreateSubsystem" | "nvmfDeleteSubsystem">;
  readonly nodeId: string;
  readonly fleet: string;
  readonly nqnPrefix: string;
};

export type FoundMarks = {
  /** Incarnations that marks of this node name. */
  readonly ours: readonly string[];
  /** The mark of another fleet or node, with its fleet as a hash. */
  readonly foreign: OwnerMark | undefined;
};

/** The name of a new incarnation. */
export function newIncarnation(): string {
  return randomBytes(8).toString("hex");
}

export class OwnerMarks {
  readonly #options: OwnerMarksOptions;

  constructor(options: OwnerMarksOptions) {
    this.#options = options;
  }

  nqn(incarnation: string): string {
    const { nqnPrefix, fleet, nodeId: node } = this.#options;
    return ownerNqn(nqnPrefix, { fleet, node, incarnation });
  }

  among(subsystems: readonly Subsystem[]): FoundMarks {
    const { nqnPrefix, fleet, nodeId } = this.#options;
    const marks = subsystems.flatMap(({ nqn }) => parseOwnerNqn(nqnPrefix, nqn) ?? []);
    const isOurs = (mark: OwnerMark) => mark.fleet === fleetHash(fleet) && mark.node === nodeId;
    return {
      ours: marks.filter(isOurs).map(({ incarnation }) => incarnation),
      foreign: marks.find((mark) => !isOurs(mark)),
    };
  }

  async create(incarnation: string): Promise<void> {
    await this.#options.spdk.nvmfCreateSubsystem({
      nqn: this.nqn(incarnation),
      serialNumber: incarnation,
      modelNumber: "storage-node owner",
      maxNamespaces: 1,
      allowAnyHost: false,
    });
  }

  async remove(incarnation: string): Promise<void> {
    await this.#options.spdk.nvmfDeleteSubsystem(this.nqn(incarnation));
  }
}
