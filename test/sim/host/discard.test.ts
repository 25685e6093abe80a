// Which discards of a host return clusters of its volume to the store, with what stands in them
// (docs/spdk-contract.md#discard-by-hosts).
import { describe, expect, it } from "vitest";
import { SimulatedHost } from "../../../src/sim/host/simulated-host.ts";
import {
  inProcessTarget,
  type InProcessOptions,
  type InProcessTarget,
} from "../../support/in-process-target.ts";
import {
  ADDRESS,
  exported,
  HOST,
  MIB,
  NQN,
  type Export,
  type ExportOptions,
} from "./export-scenario.ts";

const HALF_A_CLUSTER = MIB / 2 / 4_096;

type Scenario = AsyncDisposable & {
  readonly target: InProcessTarget;
  readonly one: Export;
  readonly host: SimulatedHost;
};

/** A host that wrote two clusters of its volume. */
async function scenario(
  options: InProcessOptions = {},
  making: ExportOptions = {},
): Promise<Scenario> {
  const stack = new AsyncDisposableStack();
  const target = stack.use(await inProcessTarget(options));
  const one = await exported(target.socket, making);
  const host = stack.use(connecting(target));
  await host.until(() => host.device !== undefined);
  await host.write(0, Buffer.alloc(2 * MIB, 7));
  return { target, one, host, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

function connecting({ fabric }: InProcessTarget): SimulatedHost {
  const times = { reconnectDelayMs: 20, ctrlLossTmoMs: 2_000 };
  const host = new SimulatedHost({ fabric, host: HOST, nqn: NQN, address: ADDRESS, ...times });
  host.start();
  return host;
}

/** Clusters that come free by what the host does. */
async function freedBy({ one }: Scenario, act: () => Promise<unknown>): Promise<number> {
  const before = await one.freeClusters();
  await act();
  return (await one.freeClusters()) - before;
}

describe("a host's discard", () => {
  it("of a whole cluster frees it, and its blocks read as zeros", async () => {
    await using setup = await scenario();
    const { host } = setup;
    expect(await freedBy(setup, () => host.discard(0, MIB))).toBe(1);
    expect(await host.read(0, MIB)).toEqual({ ok: true, bytes: Buffer.alloc(MIB) });
    expect(await host.verify()).toEqual([]);
  });

  it("lets the next volume read what stood in the cluster, on a disk that keeps unmapped bytes", async () => {
    await using setup = await scenario();
    const { host, one, target } = setup;
    await host.discard(0, MIB);
    await one.removeListener();
    await one.removeNamespace();
    await one.addNamespace(await one.createLvol("w"));
    await one.addListener();
    using other = connecting(target);
    await other.until(() => other.device !== undefined);
    await other.write(0, Buffer.alloc(4_096, 1));
    const read = await other.read(4_096, 4_096);
    expect(read).toEqual({ ok: true, bytes: Buffer.alloc(4_096, 7) });
  });

  it("of part of a cluster frees nothing, and neither do zeros that are written", async () => {
    await using setup = await scenario();
    const { host } = setup;
    expect(await freedBy(setup, () => host.discard(4_096, 2 * MIB - 8_192))).toBe(0);
    expect(await freedBy(setup, () => host.writeZeroes(0, 2 * MIB))).toBe(0);
  });

  it("of part of a cluster zeroes it on a disk whose unmap zeroes", async () => {
    await using setup = await scenario({ unmap: "zeroes" });
    await setup.host.discard(0, 4_096);
    expect(await setup.host.read(0, 4_096)).toMatchObject({ bytes: Buffer.alloc(4_096) });
  });

  it("frees nothing of a thick volume", async () => {
    await using setup = await scenario();
    const { one, host, target } = setup;
    await one.removeListener();
    await one.removeNamespace();
    await one.addNamespace(await one.createLvol("thick", false));
    await one.addListener();
    host.stop();
    using other = connecting(target);
    await other.until(() => other.device !== undefined);
    expect(await freedBy(setup, () => other.discard(0, 2 * MIB))).toBe(0);
  });

  it("frees nothing of a volume with a snapshot", async () => {
    await using setup = await scenario();
    const { host, one } = setup;
    await one.rpc("bdev_lvol_snapshot", { lvol_name: one.lvol, snapshot_name: "s" });
    await host.write(0, Buffer.alloc(MIB, 8));
    expect(await freedBy(setup, () => host.discard(0, MIB))).toBe(0);
  });

  it("frees nothing where the subsystem has a dmrsl of half a cluster, and succeeds", async () => {
    await using setup = await scenario({}, { subsystem: { dmrsl: HALF_A_CLUSTER } });
    const { host } = setup;
    expect(await freedBy(setup, () => host.discard(0, MIB))).toBe(0);
    expect(host.counters).toMatchObject({ discards: 1, refusedDiscards: 0 });
  });

  it("is refused where the transport masks it", async () => {
    await using setup = await scenario({}, { transport: { masked_oncs: ["nvmdsmsv"] } });
    const { host } = setup;
    expect(await host.discard(0, MIB)).toMatchObject({ ok: false });
    expect(host.counters).toMatchObject({ errors: 0, refusedDiscards: 1 });
  });

  it("frees nothing on 24.01, and on 25.05 the mask is ignored", async () => {
    await using oldest = await scenario({ release: "24.01" });
    expect(await freedBy(oldest, () => oldest.host.discard(0, MIB))).toBe(0);
    const masked = { transport: { masked_oncs: ["nvmdsmsv"] } };
    await using older = await scenario({ release: "25.05" }, masked);
    expect(await freedBy(older, () => older.host.discard(0, MIB))).toBe(1);
  });
});

it("dmrsl is refused before 26.05", async () => {
  await using target = await inProcessTarget({ release: "25.05", strict: false });
  const making = { subsystem: { dmrsl: HALF_A_CLUSTER } };
  await expect(exported(target.socket, making)).rejects.toThrow("Invalid parameters");
});

it("a write into a thin volume fails when its store is full, and the device stays", async () => {
  await using target = await inProcessTarget({ diskBytes: 16 * MIB });
  const one = await exported(target.socket);
  await one.createLvol("thick", false);
  using host = connecting(target);
  await host.until(() => host.device !== undefined);
  const bytes = Buffer.alloc(8 * MIB, 1);
  expect(await host.write(0, bytes)).toMatchObject({ ok: false });
  expect(host.device?.removed).toBe(false);
});
