// StreamIostat: what hosts do to volumes, as a client of the API sees it, and what it costs the target.
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Lvol } from "../../src/gen/storagenode/v1/lvol.ts";
import { SimulatedHost } from "../../src/sim/host/simulated-host.ts";
import { call, until } from "../support/agent.ts";
import { crashScenario, type CrashScenario } from "../support/crash-scenario.ts";
import { entryOf, IostatStream, OFTEN, type Frame } from "../support/iostat-stream.ts";
import { OverheardRequests } from "../support/overheard-requests.ts";
import { getLvol, HOST, idOf, provision, remove } from "../support/volumes.ts";

const SIZE = { sizeBytes: 64n * 1024n ** 2n };
const PAGE = 4_096;

let stack: AsyncDisposableStack;
let scenario: CrashScenario;
const heard = new OverheardRequests();

beforeEach(async () => {
  stack = new AsyncDisposableStack();
  scenario = stack.use(await crashScenario({}, { overhear: heard.overhear }));
  await (await scenario.start()).ready();
});

afterEach(async () => await stack.disposeAsync());

/** A host that is connected to the volume. */
async function hostOf(lvol: Lvol): Promise<SimulatedHost> {
  const { fabric } = scenario.target;
  const address = { traddr: "127.0.0.1", trsvcid: "4440" };
  const nqn = lvol.status?.nqn ?? "";
  const times = { reconnectDelayMs: 20, ctrlLossTmoMs: 60_000 };
  const host = stack.use(new SimulatedHost({ fabric, host: HOST, nqn, address, ...times }));
  host.start();
  await host.until(() => host.device !== undefined);
  return host;
}

function reading(request: ConstructorParameters<typeof IostatStream>[1] = {}): IostatStream {
  return stack.use(new IostatStream(scenario.agent(), request));
}

const idsOf = ({ iostats }: Frame) => iostats.map(({ lvolId }) => lvolId).toSorted();

describe("StreamIostat", () => {
  it("shows what a host reads and writes, with the time that it took", async () => {
    const lvol = await provision(scenario.agent(), SIZE);
    const host = await hostOf(lvol);
    const stream = reading();
    const before = entryOf(await stream.next("the first"), idOf(lvol));
    expect(before).toMatchObject({ numReadOps: 0n, numWriteOps: 0n, reset: false });
    await host.write(0, Buffer.alloc(3 * PAGE, 1));
    await host.write(PAGE, Buffer.alloc(PAGE, 2));
    await host.read(0, PAGE);
    const after = await stream.next("with the host's read", (frame) => {
      return entryOf(frame, idOf(lvol))?.numReadOps === 1n;
    });
    expect(after.dropped).toBe(0n);
    const entry = entryOf(after, idOf(lvol));
    expect(entry).toMatchObject({
      bytesRead: 4_096n,
      bytesWritten: 16_384n,
      numWriteOps: 2n,
      diskId: lvol.status?.diskId,
      reset: false,
    });
    const { seconds, nanos } = entry?.writeLatency ?? { seconds: -1n, nanos: -1 };
    expect(seconds).toBe(0n);
    // Two writes to a disk that takes 80 us for each.
    expect(nanos).toBeGreaterThan(160_000);
    expect(nanos).toBeLessThan(1_000_000);
  });
});
