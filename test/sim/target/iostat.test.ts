// What bdev_get_iostat of the simulated target counts (docs/spdk-contract.md#iostat).
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { SimulatedHost } from "../../../src/sim/host/simulated-host.ts";
import {
  inProcessTarget,
  type InProcessOptions,
  type InProcessTarget,
} from "../../support/in-process-target.ts";
import { ADDRESS, exported, HOST, MIB, NQN, type Export } from "../host/export-scenario.ts";

type Scenario = AsyncDisposable & {
  readonly target: InProcessTarget;
  readonly one: Export;
  readonly host: SimulatedHost;
};

/** A host that uses a volume of 8 MiB, of which nothing is written yet. */
async function scenario(options: InProcessOptions = {}): Promise<Scenario> {
  const stack = new AsyncDisposableStack();
  const target = stack.use(await inProcessTarget(options));
  const one = await exported(target.socket);
  const times = { reconnectDelayMs: 20, ctrlLossTmoMs: 2_000 };
  const { fabric } = target;
  const host = stack.use(
    new SimulatedHost({ fabric, host: HOST, nqn: NQN, address: ADDRESS, ...times }),
  );
  host.start();
  await host.until(() => host.device !== undefined);
  return { target, one, host, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

const counters = z.looseObject({
  name: z.string(),
  bytes_read: z.number(),
  num_read_ops: z.number(),
  bytes_written: z.number(),
  num_write_ops: z.number(),
  bytes_unmapped: z.number(),
  write_latency_ticks: z.number(),
});
const answer = z.object({ tick_rate: z.number(), bdevs: z.array(counters) });

async function iostat({ one }: Scenario, params?: object) {
  const { bdevs, tick_rate: tickRate } = answer.parse(await one.rpc("bdev_get_iostat", params));
  const of = (name: string) => {
    const found = bdevs.find((bdev) => bdev.name === name);
    if (found === undefined) throw new Error(`no counters of ${name}`);
    return found;
  };
  return { lvol: of(one.lvol), disk: of("nvme0n1"), tickRate };
}

describe("bdev_get_iostat", () => {
  it("counts what a host reads and writes, of the lvol and of its disk", async () => {
    await using setup = await scenario();
    const { host } = setup;
    const nothing = { bytes_read: 0, num_read_ops: 0, bytes_written: 0, num_write_ops: 0 };
    expect(await iostat(setup)).toMatchObject({ lvol: nothing, disk: nothing });
    await host.write(0, Buffer.alloc(8_192, 1));
    await host.write(4_096, Buffer.alloc(4_096, 2));
    await host.read(0, 4_096);
    const seen = { bytes_read: 4_096, num_read_ops: 1, bytes_written: 12_288, num_write_ops: 2 };
    const now = await iostat(setup);
    expect(now).toMatchObject({ lvol: seen, disk: seen });
    const seconds = now.lvol.write_latency_ticks / now.tickRate;
    expect(seconds).toBeGreaterThan(2 * 50e-6);
    expect(seconds).toBeLessThan(2 * 1e-3);
  });

  it("counts a read of what was never written on the lvol alone, and discards as unmapped", async () => {
    await using setup = await scenario();
    await setup.host.read(MIB, 4_096);
    expect(await iostat(setup)).toMatchObject({
      lvol: { bytes_read: 4_096 },
      disk: { bytes_read: 0 },
    });
    await setup.host.write(0, Buffer.alloc(4_096, 1));
    await setup.host.discard(0, 4_096);
    expect(await iostat(setup)).toMatchObject({
      lvol: { bytes_unmapped: 4_096 },
      disk: { bytes_unmapped: 4_096 },
    });
  });

  it("starts at zero with another process of the target", async () => {
    await using setup = await scenario();
    await setup.host.write(0, Buffer.alloc(4_096, 1));
    await setup.target.restart();
    await setup.one.exportAgain();
    expect(await iostat(setup)).toMatchObject({
      lvol: { num_write_ops: 0 },
      disk: { num_write_ops: 0 },
    });
  });

  it("with reset_mode starts at zero for everybody, which a strict target aborts on", async () => {
    {
      await using setup = await scenario({ strict: false });
      await setup.host.write(0, Buffer.alloc(4_096, 1));
      const params = { reset_mode: "all" };
      expect(await iostat(setup, params)).toMatchObject({ lvol: { num_write_ops: 1 } });
      expect(await iostat(setup)).toMatchObject({ lvol: { num_write_ops: 0 } });
    }
    await using strict = await scenario();
    void strict.one.rpc("bdev_get_iostat", { reset_mode: "all" }).catch(() => {});
    await expect(strict.target.aborted).rejects.toThrow("reset_mode (strict)");
  });
});
