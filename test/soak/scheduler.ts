// A scheduler that creates volumes, allows and revokes hosts, and deletes volumes without pause. It
// repeats each call until it is answered, and records the answers.
import { credentials, status, type CallOptions } from "@grpc/grpc-js";
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { StorageNodeClient } from "../../src/gen/storagenode/v1/storage_node.ts";
import { call, refusal } from "../support/agent.ts";
import { lvolSpec, stateOf } from "../support/volumes.ts";

/** Concurrent calls. */
const WORKERS = 32;
const CALL_MS = 5_000;
const AGAIN_MS = 100;
const MIB = 1024n ** 2n;
const HOSTS = [1, 2, 3].map(
  (index) => `nqn.2014-08.org.nvmexpress:uuid:7c5d1e9a-0001-4000-8000-00000000000${index}`,
);
/** Status codes that leave the outcome unknown: the call is repeated. */
const UNKNOWN: readonly number[] = [status.UNAVAILABLE, status.CANCELLED, status.DEADLINE_EXCEEDED];

/** Refusals that end by themselves; free space is zeroed without a call. */
const PASSING: readonly string[] = ["FREE_SPACE_NOT_ZEROED", "NO_DISK_FITS", "DISK_NOT_UP"];

/** A volume according to the latest definite answers. */
export type Volume = {
  readonly id: string;
  readonly lvolUuid: string;
  readonly sizeBytes: bigint;
  readonly hosts: ReadonlySet<string>;
};

export type SchedulerOptions = {
  readonly address: string;
  readonly volumes: number;
  readonly random: () => number;
};

export class Scheduler {
  readonly #options: SchedulerOptions;
  readonly #client: StorageNodeClient;
  /**
   * One entry per volume; undefined: to be created. A worker removes the entry while it works on
   * it.
   */
  readonly #places: (Volume | undefined)[];
  readonly #counts: Record<string, number> = {};
  deleted = 0;
  longestMs = 0;

  constructor(options: SchedulerOptions) {
    this.#options = options;
    this.#client = new StorageNodeClient(options.address, credentials.createInsecure(), {
      "grpc.initial_reconnect_backoff_ms": 100,
      "grpc.max_reconnect_backoff_ms": 500,
    });
    this.#places = Array.from({ length: options.volumes }, () => undefined);
  }

  /** Number of answers so far, by call and result. */
  get counts(): Readonly<Record<string, number>> {
    return this.#counts;
  }

  volumes(): readonly Volume[] {
    return this.#places.filter((one) => one !== undefined);
  }

  /** Runs until the signal aborts and every call sent before is answered. */
  async work(signal: AbortSignal): Promise<void> {
    const worker = async () => {
      while (!signal.aborted) {
        const [place] = this.#places.splice(this.#below(this.#places.length), 1);
        this.#places.push(await this.#change(place));
      }
    };
    await Promise.all(Array.from({ length: WORKERS }, worker));
    this.#client.close();
  }

  async #change(volume: Volume | undefined): Promise<Volume | undefined> {
    if (volume === undefined) return await this.#provision();
    const dice = this.#options.random();
    if (dice < 0.3) return await this.#delete(volume);
    const host = HOSTS[this.#below(HOSTS.length)] ?? "";
    return await (dice < 0.65 ? this.#allow(volume, host) : this.#revoke(volume, host));
  }

  async #provision(): Promise<Volume> {
    const id = randomUUID();
    const sizeBytes = BigInt(1 + this.#below(64)) * 4n * MIB;
    const client = this.#client;
    const spec = lvolSpec({ sizeBytes, allowedHostNqns: [] });
    const request = { id, spec, waitTimeout: { seconds: 3n, nanos: 0 }, validateOnly: false };
    for (;;) {
      const { lvol } = await this.#untilAnswered("provision", (options) =>
        call(client, client.provisionLvol.bind(client), request, options),
      );
      if (lvol !== undefined && stateOf(lvol) === "LVOL_STATE_UP") {
        return { id, lvolUuid: lvol.status?.lvolUuid ?? "", sizeBytes, hosts: new Set() };
      }
    }
  }

  async #delete({ id }: Volume): Promise<undefined> {
    const client = this.#client;
    const target = { $case: "lvolId" as const, value: id };
    const waitTimeout = { seconds: 3n, nanos: 0 };
    const request = { target, waitTimeout, deferred: false, force: false, reason: "" };
    await this.#untilAnswered("delete", (options) =>
      call(client, client.delete.bind(client), request, options),
    );
    this.deleted += 1;
  }

  async #allow(volume: Volume, hostNqn: string): Promise<Volume> {
    const client = this.#client;
    const request = { lvolId: volume.id, hostNqn, waitTimeout: undefined };
    await this.#untilAnswered("allow", (options) =>
      call(client, client.allowHost.bind(client), request, options),
    );
    return { ...volume, hosts: volume.hosts.union(new Set([hostNqn])) };
  }

  async #revoke(volume: Volume, hostNqn: string): Promise<Volume> {
    const client = this.#client;
    const request = { lvolId: volume.id, hostNqn, waitTimeout: undefined };
    await this.#untilAnswered("revoke", (options) =>
      call(client, client.revokeHost.bind(client), request, options),
    );
    return { ...volume, hosts: volume.hosts.difference(new Set([hostNqn])) };
  }

  /** Repeats a call until it is OK. Throws on an answer that is neither transient nor curable. */
  async #untilAnswered<T>(
    what: string,
    ask: (options: Partial<CallOptions>) => Promise<T>,
  ): Promise<T> {
    const begun = performance.now();
    for (;;) {
      try {
        const answer = await ask({ deadline: Date.now() + CALL_MS });
        this.#count(`${what}: OK`);
        this.longestMs = Math.max(this.longestMs, performance.now() - begun);
        return answer;
      } catch (error) {
        const { code, reason, message } = await refusal(Promise.reject(error));
        this.#count(`${what}: ${reason === "" ? (status[code] ?? code) : reason}`);
        if (!UNKNOWN.includes(code) && !PASSING.includes(reason)) {
          throw new Error(`${what}: ${reason}: ${message}`, { cause: error });
        }
        await sleep(AGAIN_MS);
      }
    }
  }

  #count(what: string): void {
    this.#counts[what] = (this.#counts[what] ?? 0) + 1;
  }

  #below(limit: number): number {
    return Math.floor(this.#options.random() * limit);
  }
}
