// Tenants of one node that write, discard, delete and come anew, while agent and target are killed: every
// volume must show its host nothing but zeros and what this host wrote. All I/O goes through exports.
import fc from "fast-check";
import { hostIo } from "../../src/sim/target/host-io.ts";
import type { StopAt } from "../../src/sim/target/gate.ts";
import type { ReleaseName } from "../../src/sim/target/release.ts";
import { Provisioning } from "../../src/gen/storagenode/v1/lvol.ts";
import { call, until } from "./agent.ts";
import { crashScenario, type CrashScenario } from "./crash-scenario.ts";
import { soiledClusters } from "./free-space.ts";
import { lvolSpec } from "./volumes.ts";
import { randomUUID } from "node:crypto";

const SLOTS = 3;
const CLUSTER = 4 * 1_048_576;
const CLUSTERS = 4;
const PAGE = 4_096;
/** Pages at the beginning of each cluster that hosts write, so that only these are looked at. */
const PAGES = 4;
/** The disk has about twice the clusters of all volumes: they are soon handed out again. */
const DISK_BYTES = 24 * CLUSTER;
const SOON = { seconds: 3n, nanos: 0 };

const record = <T>(of: { [K in keyof T]: fc.Arbitrary<T[K]> }) =>
  fc.record(of, { noNullPrototype: true });
const constant = <const T>(value: T) => fc.constant(value);
const slot = fc.nat({ max: SLOTS - 1 });
const cluster = fc.nat({ max: CLUSTERS - 1 });

const action = fc.oneof(
  {
    weight: 2,
    arbitrary: record({ do: constant("provision"), slot, thick: fc.nat(3).map((n) => n === 0) }),
  },
  {
    weight: 6,
    arbitrary: record({ do: constant("write"), slot, cluster, page: fc.nat({ max: PAGES - 1 }) }),
  },
  {
    weight: 3,
    arbitrary: record({ do: constant("discard"), slot, cluster, count: fc.nat({ max: CLUSTERS }) }),
  },
  { weight: 3, arbitrary: record({ do: constant("delete"), slot }) },
  { weight: 1, arbitrary: record({ do: constant("zero free space") }) },
  { weight: 2, arbitrary: record({ do: constant("snapshot"), slot }) },
  { weight: 2, arbitrary: record({ do: constant("clone"), slot, of: slot }) },
  { weight: 1, arbitrary: record({ do: constant("delete snapshot"), slot }) },
  {
    weight: 2,
    arbitrary: record({
      do: constant("kill"),
      victim: fc.constantFrom("agent", "target", "both"),
      when: fc.constantFrom<StopAt["when"][]>("before", "midway", "after"),
      method: fc.constantFrom(
        "bdev_lvol_create",
        "bdev_lvol_delete",
        "bdev_lvol_delete",
        "bdev_lvol_snapshot",
        "bdev_lvol_set_parent",
        "nvmf_create_subsystem",
        "host_write",
        "host_write",
      ),
      nth: fc.integer({ min: 1, max: 3 }),
    }),
  },
);

type Action = typeof action extends fc.Arbitrary<infer T> ? T : never;

export const tenantHistories = record({
  node: fc.constantFrom(
    { release: "24.01", discardZeroes: false },
    { release: "25.05", discardZeroes: false },
    { release: "25.05", discardZeroes: true },
    { release: "26.01", discardZeroes: false },
    { release: "26.09", discardZeroes: false },
  ) satisfies fc.Arbitrary<{ release: ReleaseName; discardZeroes: boolean }>,
  actions: fc.array(action, { minLength: 12, maxLength: 32, size: "max" }),
});

export type TenantHistory = typeof tenantHistories extends fc.Arbitrary<infer T> ? T : never;

type Tenant = {
  readonly id: string;
  readonly tag: number;
  /** Its own tag, and those of the volumes that it was cloned from. */
  readonly allowed: ReadonlySet<number>;
  nqn: string;
};

type Snapshot = Pick<Tenant, "id" | "allowed">;

class Tenants {
  readonly #scenario: CrashScenario;
  readonly #tenants = new Map<number, Tenant>();
  readonly #snapshots = new Map<number, Snapshot>();
  #tags = 0;
  #killing: Promise<void> = Promise.resolve();
  /** Pages that were written and read as something. */
  read = 0;

  constructor(scenario: CrashScenario) {
    this.#scenario = scenario;
  }

  async take(one: Action): Promise<void> {
    await this.#killing;
    await this.#act(one);
    await this.#killing;
    this.#look();
  }

  /** Ends the faults, has the free space zeroed, and looks once more, into free clusters too. */
  async rest(): Promise<number> {
    const { target } = this.#scenario;
    await this.#killing;
    target.engine().gate.clear();
    const agent = this.#scenario.agent();
    await agent.ready();
    await until("the free space is zeroed", () => this.#zero());
    this.#look();
    return soiledClusters(this.#scenario);
  }

  async #act(one: Action): Promise<void> {
    switch (one.do) {
      case "provision":
        return await this.#provision(one.slot, one.thick);
      case "write":
        if (!this.#tenants.has(one.slot)) await this.#provision(one.slot, false);
        return this.#write(one.slot, one.cluster * CLUSTER + one.page * PAGE);
      case "discard":
        return this.#discard(one.slot, one.cluster * CLUSTER, one.count * CLUSTER);
      case "delete":
        return await this.#delete(one.slot);
      case "zero free space":
        await this.#zero();
        return;
      case "snapshot":
        return await this.#snapshot(one.slot);
      case "clone": {
        const source = this.#snapshots.get(one.of);
        if (source === undefined || this.#tenants.has(one.slot)) return;
        return await this.#provision(one.slot, false, source);
      }
      case "delete snapshot":
        return await this.#deleteSnapshot(one.slot);
      case "kill":
        return this.#arm(one);
    }
  }

  async #provision(at: number, thick: boolean, source?: Snapshot): Promise<void> {
    const tag = (this.#tags += 1);
    const allowed = new Set([tag, ...(source?.allowed ?? [])]);
    const tenant = this.#tenants.get(at) ?? { id: randomUUID(), tag, allowed, nqn: "" };
    const provisioning = thick
      ? Provisioning.PROVISIONING_THICK
      : Provisioning.PROVISIONING_UNSPECIFIED;
    const sizeBytes = BigInt(CLUSTERS * CLUSTER);
    const spec = lvolSpec({ sizeBytes, provisioning, sourceSnapshotId: source?.id ?? "" });
    const request = { id: tenant.id, spec, waitTimeout: SOON, validateOnly: false };
    const { client } = this.#scenario.agent();
    // What is refused, or not answered, is no volume that anybody uses.
    const answer = await call(client, client.provisionLvol.bind(client), request).catch(() => {});
    const nqn = answer?.lvol?.status?.nqn;
    if (nqn === undefined) return;
    tenant.nqn = nqn;
    this.#tenants.set(at, tenant);
  }

  async #delete(at: number): Promise<void> {
    const tenant = this.#tenants.get(at);
    if (tenant === undefined) return;
    this.#tenants.delete(at);
    const { client } = this.#scenario.agent();
    const target = { $case: "lvolId" as const, value: tenant.id };
    const request = { target, waitTimeout: SOON, deferred: false, force: true, reason: "gone" };
    await call(client, client.delete.bind(client), request).catch(() => {});
  }

  async #snapshot(at: number): Promise<void> {
    const tenant = this.#tenants.get(at);
    if (tenant === undefined || this.#snapshots.has(at)) return;
    const id = randomUUID();
    const { client } = this.#scenario.agent();
    const spec = { sourceLvolId: tenant.id, labels: {} };
    const request = { id, spec, waitTimeout: SOON };
    const answer = await call(client, client.snapshot.bind(client), request).catch(() => {});
    if (answer === undefined) return;
    this.#snapshots.set(at, { id, allowed: tenant.allowed });
  }

  async #deleteSnapshot(at: number): Promise<void> {
    const snapshot = this.#snapshots.get(at);
    if (snapshot === undefined) return;
    const { client } = this.#scenario.agent();
    const target = { $case: "snapshotId" as const, value: snapshot.id };
    const request = { target, waitTimeout: SOON, deferred: true, force: false, reason: "" };
    await call(client, client.delete.bind(client), request).catch(() => {});
    this.#snapshots.delete(at);
  }

  async #zero(): Promise<boolean> {
    const { client } = this.#scenario.agent();
    const page = { pageSize: 0, pageToken: "" };
    const listed = await call(client, client.listDisks.bind(client), page).catch(() => {});
    const request = { diskId: listed?.disks[0]?.meta?.id ?? "", waitTimeout: SOON };
    const zero = client.zeroFreeSpace.bind(client);
    const answer = await call(client, zero, request).catch(() => {});
    return answer?.disk?.status?.lvstore?.freeSpace === "FREE_SPACE_ZEROED";
  }

  /** Kills at the n-th such request from now on. */
  #arm({ victim, when, method, nth }: Extract<Action, { do: "kill" }>): void {
    const { gate } = this.#scenario.target.engine();
    gate.onStopped = () => {
      this.#killing = this.#kill(victim);
    };
    gate.stopAt({ when, method, nth });
  }

  async #kill(victim: "agent" | "target" | "both"): Promise<void> {
    const { target } = this.#scenario;
    if (victim !== "agent") await target.restart();
    if (victim === "target") return;
    const killing = this.#scenario.killAgent();
    target.resume();
    await killing;
    await this.#scenario.start();
  }

  #write(at: number, offset: number): void {
    const tenant = this.#tenants.get(at);
    if (tenant === undefined) return;
    const bytes = Buffer.alloc(PAGE, tenant.tag);
    this.#io(tenant, { kind: "write", offset, bytes });
  }

  #discard(at: number, offset: number, length: number): void {
    const tenant = this.#tenants.get(at);
    const within = Math.min(length, CLUSTERS * CLUSTER - offset);
    if (tenant !== undefined) this.#io(tenant, { kind: "discard", offset, length: within });
  }

  /** Undefined where the host could not have reached its volume, or the I/O fails. */
  #io({ nqn }: Tenant, io: Parameters<typeof hostIo>[1]): Buffer | undefined {
    const { target } = this.#scenario;
    const state = target.state();
    const subsystem = state.subsystems.get(nqn);
    if (subsystem === undefined || subsystem.listeners.length === 0) return undefined;
    try {
      return hostIo({ target: state, release: target.engine().release, subsystem }, io);
    } catch {
      return undefined;
    }
  }

  /** Throws if a volume shows a byte that its tenant did not write. */
  #look(): void {
    for (const tenant of this.#tenants.values()) {
      for (let one = 0; one < CLUSTERS; one += 1) {
        const range = { offset: one * CLUSTER, length: PAGES * PAGE } as const;
        const bytes = this.#io(tenant, { kind: "read", ...range });
        const shown = new Set(bytes);
        if (shown.has(tenant.tag)) this.read += 1;
        const foreign = [...shown].filter((byte) => byte !== 0 && !tenant.allowed.has(byte));
        if (foreign.length > 0) throw new Error(`tenant ${tenant.tag} is shown ${foreign.join()}`);
      }
    }
  }
}

/**
 * Throws if a tenant is shown what it did not write. How many free clusters hold bytes in the end, and
 * how often a tenant has found its own.
 */
export async function runTenants({
  node,
  actions,
}: TenantHistory): Promise<{ readonly soiled: number; readonly read: number }> {
  const { release, discardZeroes } = node;
  const target = {
    release,
    diskBytes: DISK_BYTES,
    ...(discardZeroes && ({ discardZeroes, unmap: "zeroes" } as const)),
  };
  await using scenario = await crashScenario({}, { target });
  await (await scenario.start()).ready();
  const tenants = new Tenants(scenario);
  for (const one of actions) await tenants.take(one);
  return { soiled: await tenants.rest(), read: tenants.read };
}
