// StreamIostat: what hosts do to volumes, as a client of the API sees it, and what it costs the target.
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Provisioning, type Lvol } from "../../src/gen/storagenode/v1/lvol.ts";
import type { Timing } from "../../src/node.ts";
import { SimulatedHost } from "../../src/sim/host/simulated-host.ts";
import { call, startAgent, until } from "../support/agent.ts";
import { crashScenario, type CrashScenario } from "../support/crash-scenario.ts";
import { testDatabase } from "../support/database.ts";
import { inProcessTarget, type InProcessTarget } from "../support/in-process-target.ts";
import { entryOf, IostatStream, type Frame } from "../support/iostat-stream.ts";
import { OverheardRequests } from "../support/overheard-requests.ts";
import { SocketProxy } from "../support/socket-proxy.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { TcpRelay } from "../support/tcp-relay.ts";
import { getLvol, HOST, idOf, provision, remove } from "../support/volumes.ts";

const SIZE = { sizeBytes: 64n * 1024n ** 2n };
const PAGE = 4_096;

let stack: AsyncDisposableStack;
let scenario: CrashScenario;
const heard = new OverheardRequests();

beforeEach(async () => {
  stack = new AsyncDisposableStack();
  await begin();
});

async function begin(timing: Partial<Timing> = {}): Promise<void> {
  scenario = stack.use(await crashScenario(timing, { overhear: heard.overhear }));
  await (await scenario.start()).ready();
}

afterEach(async () => await stack.disposeAsync());

/** A host that is connected to the volume. */
async function hostOf(
  lvol: Lvol,
  { fabric }: Pick<InProcessTarget, "fabric"> = scenario.target,
): Promise<SimulatedHost> {
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

/** What the target is asked from now until it was asked for its events, every two seconds, that often. */
async function eventPolls(count: number): Promise<readonly string[]> {
  heard.take();
  const asked: string[] = [];
  await until(`${count} polls for events`, () => {
    asked.push(...heard.take().map(({ method }) => method));
    return asked.filter((method) => method === "notify_get_notifications").length >= count;
  });
  return asked;
}

const timeOf = (time: Date | undefined) => time?.getTime() ?? Number.NaN;

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

  it("shows the volumes and disks that the filter lets in, as they come and go", async () => {
    const agent = scenario.agent();
    const [one, two] = [await provision(agent, SIZE), await provision(agent, SIZE)].map(idOf);
    if (one === undefined || two === undefined) throw new Error("two");
    const disk = [...agent.node.agent.rows.disks()][0]?.id ?? "";
    const all = reading();
    const onlyOne = reading({ lvolIds: [one] });
    const ofDisk = reading({ diskIds: [disk], includeDisks: true });
    expect(idsOf(await all.next("of all"))).toEqual([one, two].toSorted());
    expect(idsOf(await onlyOne.next("of one"))).toEqual([one]);
    const { iostats } = await ofDisk.next("of the disk");
    const named = iostats.map(({ lvolId, diskId }) => `${lvolId} on ${diskId}`);
    const expected = ["", one, two].map((lvolId) => `${lvolId} on ${disk}`);
    expect(named.toSorted()).toEqual(expected.toSorted());

    const three = idOf(await provision(agent, SIZE));
    const joined = (frame: Frame) => entryOf(frame, three) !== undefined;
    await all.next("with the new volume", joined);
    await ofDisk.next("with the new volume", joined);
    expect(idsOf(await onlyOne.next("of one, still"))).toEqual([one]);

    await remove(agent, one);
    await all.next("without the deleted volume", (frame) => entryOf(frame, one) === undefined);
    await onlyOne.next("of nothing", ({ iostats: none }) => none.length === 0);
    expect(idsOf(await all.next("of those that are left"))).toEqual([two, three].toSorted());
  });

  it("refuses what is not on the node, and intervals out of bounds", async () => {
    const agent = scenario.agent();
    const none = "7c5d1e9a-0009-4000-8000-000000000009";
    const refused = async (request: ConstructorParameters<typeof IostatStream>[1]) =>
      await reading(request).ended;
    expect(await refused({ lvolIds: [none] })).toMatchObject({ code: 5 });
    expect(await refused({ diskIds: [none] })).toMatchObject({ code: 5 });
    const gone = idOf(await provision(agent, SIZE));
    await remove(agent, gone);
    expect(await refused({ lvolIds: [gone] })).toEqual({
      code: 5,
      details: `volume ${gone} was deleted`,
    });
    expect(await refused({ lvolIds: ["x"] })).toMatchObject({ code: 3 });
    for (const interval of [
      { seconds: 0n, nanos: 99_000_000 },
      { seconds: 301n, nanos: 0 },
      { seconds: -1n, nanos: 0 },
      { seconds: 1n, nanos: -5 },
    ]) {
      expect(await refused({ interval })).toMatchObject({
        code: 3,
        details: "interval: must be between 0.1 seconds and 5 minutes",
      });
    }
    expect(agent.node.agent.loops().find(({ name }) => name === "iostat")).toMatchObject({
      passes: 0,
    });
  });

  it("is silent while the target is away, and marks counters that began anew after that", async () => {
    const lvol = await provision(scenario.agent(), SIZE);
    const id = idOf(lvol);
    const host = await hostOf(lvol);
    await host.write(0, Buffer.alloc(PAGE, 1));
    const [often, seldom] = [reading(), reading({ interval: { seconds: 1n, nanos: 0 } })];
    await often.next("before", (frame) => entryOf(frame, id)?.numWriteOps === 1n);
    await seldom.next("before, seldom");
    await scenario.target.kill();
    await until("the agent knows", () =>
      scenario
        .agent()
        .node.agent.components()
        .some(({ name, ok }) => name === "target" && !ok),
    );
    often.frames.length = 0;
    await scenario.target.restart();
    const marked = await often.next("with a mark", (frame) => entryOf(frame, id)?.reset === true);
    expect(entryOf(marked, id)).toMatchObject({ numReadOps: 0n, numWriteOps: 0n });
    expect(entryOf(await often.next("after it"), id)).toMatchObject({ reset: false });
    // Whoever missed that sample is told all the same.
    await seldom.next("with a mark, seldom", (frame) => entryOf(frame, id)?.reset === true);
    await host.write(0, Buffer.alloc(PAGE, 2));
    await often.next("with I/O", (frame) => {
      const entry = entryOf(frame, id);
      return entry?.numWriteOps === 1n && !entry.reset;
    });
  });

  it("marks the counters of a volume that was attached again, even if they are higher", async () => {
    const lvol = await provision(scenario.agent(), SIZE);
    const id = idOf(lvol);
    const stream = reading();
    await stream.next("before");
    // The same bdev name with other counters, as after a detach and an attach.
    const bdev = scenario.target.state().lvol(lvol.status?.lvolUuid ?? "");
    if (bdev === undefined) throw new Error("no bdev");
    scenario.target.state().notify("bdev_unregister", bdev);
    scenario.target.state().notify("bdev_register", bdev);
    bdev.io.count("write", PAGE);
    const marked = await stream.next("with a mark", (one) => entryOf(one, id)?.reset === true);
    expect(entryOf(marked, id)).toMatchObject({ bytesWritten: 4_096n });
    expect(entryOf(await stream.next("after it"), id)).toMatchObject({ reset: false });
  });

  it("never has two requests under way, however long the target takes", async () => {
    await provision(scenario.agent(), SIZE);
    const { gate } = scenario.target.engine();
    const counters = () => gate.counts["bdev_get_iostat"] ?? 0;
    gate.addRule({ method: "bdev_get_iostat", nth: 1, effect: "delay", ms: 700, always: true });
    const before = counters();
    const stream = reading();
    await stream.next("after 700 ms");
    const asked = counters() - before;
    expect([1, 2]).toContain(asked);
    gate.clear();
    gate.addRule({ method: "bdev_get_iostat", nth: 1, effect: "drop" });
    await until("a request stays without an answer", () => counters() > before + asked);
    const lost = counters();
    const { node } = scenario.agent();
    await until("the loop says so", () => {
      return node.agent.loops().some(({ lastError }) => lastError?.includes("(timeout)") === true);
    });
    await eventPolls(2);
    expect(counters()).toBe(lost);
    // A new connection ends the wait for it.
    scenario.loseConnection();
    stream.frames.length = 0;
    await stream.next("over the next connection");
  });

  it("goes on without a volume that vanished from the target, and with all the others", async () => {
    // No event of the target says so first.
    await begin({ eventsMs: 600_000 });
    const agent = scenario.agent();
    const [kept, lost] = [await provision(agent, SIZE), await provision(agent, SIZE)];
    const stream = reading();
    await stream.next("with both", ({ iostats }) => iostats.length === 2);
    heard.take();
    const { state } = scenario.target;
    const bdev = state().lvol(lost.status?.lvolUuid ?? "");
    if (bdev === undefined) throw new Error("no bdev");
    state().unregister(bdev);
    const left = await stream.next("with one", ({ iostats }) => iostats.length === 1);
    expect(idsOf(left)).toEqual([idOf(kept)]);
    await until("the agent has seen it", async () => {
      return (await getLvol(agent, idOf(lost))).status?.state === "LVOL_STATE_DATA_MISSING";
    });
    await stream.next("with one, again");
    const unfiltered = heard.take().filter(({ method, params }) => {
      return method === "bdev_get_iostat" && params["names"] === undefined;
    });
    expect(unfiltered).toHaveLength(1);
  });

  it("tells a slow reader how many samples it missed, and holds up no other", async () => {
    const agent = scenario.agent();
    await Promise.all(Array.from({ length: 100 }, () => provision(agent, SIZE)));
    const [slow, fast] = [reading(), reading()];
    await slow.next("the first");
    slow.pause();
    const isLate = ({ dropped }: Frame) => dropped > 0n;
    const { iostat } = agent.node.agent;
    const dropped = vi.spyOn(iostat, "countDropped");
    await until("the slow reader misses samples", () => dropped.mock.calls.length >= 5);
    slow.resume();
    let [before, late] = [await slow.next("that was waiting"), await slow.next("behind it")];
    while (!isLate(late)) [before, late] = [late, await slow.next("that says what was missed")];
    expect(late.dropped).toBeGreaterThanOrEqual(5n);
    expect(late.iostats).toHaveLength(100);
    expect((await slow.next("in time again")).dropped).toBe(0n);
    // Both read every sample, so the fast one has those that the slow one missed.
    const missed = fast.frames.filter(
      ({ time }) => timeOf(time) > timeOf(before.time) && timeOf(time) < timeOf(late.time),
    );
    expect(BigInt(missed.length)).toBe(late.dropped);
    expect(fast.frames.some(isLate)).toBe(false);
  });

  it("asks nothing once every stream has ended, in whatever way", async () => {
    const agent = scenario.agent();
    await provision(agent, SIZE);
    const relay = stack.use(await TcpRelay.open(agent.address));
    const ends: readonly ((streams: readonly IostatStream[]) => void)[] = [
      (streams) => {
        for (const stream of streams) stream.cancel();
      },
      () => relay.drop(),
    ];
    for (const end of ends) {
      const streams = Array.from({ length: 20 }, () => stack.use(new IostatStream(relay)));
      await Promise.all(streams.map((stream) => stream.next("the first")));
      expect(agent.node.agent.iostat.readers).toBe(20);
      end(streams);
      await until("nobody reads", () => agent.node.agent.iostat.readers === 0);
    }
    expect(await eventPolls(2)).not.toContain("bdev_get_iostat");
  });

  it("ends with UNAVAILABLE when the agent stops", async () => {
    const stream = reading();
    await stream.next("the first");
    const { ended } = stream;
    await scenario.killAgent();
    expect(await ended).toMatchObject({ code: 14, details: "the agent is stopping" });
  });
});

describe("GetLvol and GetDisk", () => {
  it("have the last counters with their time, and none of an earlier process of the target", async () => {
    const agent = scenario.agent();
    const lvol = await provision(agent, SIZE);
    const id = idOf(lvol);
    const diskId = lvol.status?.diskId ?? "";
    expect((await getLvol(agent, id)).status).toMatchObject({ iostat: undefined });
    const host = await hostOf(lvol);
    await host.write(0, Buffer.alloc(PAGE, 1));
    const stream = reading({ includeDisks: true });
    const frame = await stream.next("with the write", (one) => {
      return entryOf(one, id)?.numWriteOps === 1n;
    });
    stream.cancel();
    await until("nobody reads", () => agent.node.agent.iostat.readers === 0);
    const { client } = agent;
    const disk = await call(client, client.getDisk.bind(client), { diskId });
    const { status } = await getLvol(agent, id);
    expect(status?.iostat).toMatchObject({ lvolId: id, bytesWritten: 4_096n });
    expect(disk.disk?.status?.iostat).toMatchObject({ lvolId: "", diskId, bytesWritten: 4_096n });
    expect(status?.iostatTime?.getTime()).toBeGreaterThanOrEqual(frame.time?.getTime() ?? Infinity);
    expect(status?.allocatedTime?.getTime()).toBeLessThanOrEqual(Date.now());
    await scenario.target.restart();
    await until("they are gone", async () => {
      return (await getLvol(agent, id)).status?.iostat === undefined;
    });
  });
});

describe("StreamIostat over a release of SPDK", () => {
  it.each([
    ["24.01", { name: "UUID" }, {}],
    ["25.05", { name: "UUID" }, {}],
    ["26.09", { names: ["UUID"] }, { names: ["UUID", "UUID"] }],
  ] as const)("%s asks for one volume by %o, for two by %o", async (release, one, two) => {
    const target = stack.use(await inProcessTarget({ release }));
    const folder = stack.use(await temporaryFolder());
    const socket = join(folder.path, "s");
    const requests = new OverheardRequests();
    stack.use(await SocketProxy.open(socket, target.socket, requests.overhear));
    const database = stack.use(await testDatabase());
    const { fabricDisks } = target;
    const place = { url: database.url, target: { socket, fabricDisks } };
    const agent = stack.use(await startAgent(place));
    await agent.ready();
    // Thin ones are refused where hosts could free their clusters.
    const thick = { ...SIZE, provisioning: Provisioning.PROVISIONING_THICK };
    const lvols = [await provision(agent, thick), await provision(agent, thick)];
    const ids = lvols.map(idOf);
    const [lvol] = lvols;
    if (lvol === undefined) throw new Error("two");
    const host = await hostOf(lvol, target);
    const asked = () => {
      const counters = requests.take().filter(({ method }) => method === "bdev_get_iostat");
      const text = JSON.stringify(counters.at(-1)?.params);
      return JSON.parse(text.replaceAll(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, "UUID"));
    };
    {
      using stream = new IostatStream(agent, { lvolIds: ids.slice(0, 1) });
      await stream.next("the first");
      await host.write(0, Buffer.alloc(PAGE, 1));
      await stream.next("with the write", (frame) => {
        return entryOf(frame, idOf(lvol))?.bytesWritten === 4_096n;
      });
      expect(asked()).toEqual(one);
    }
    using both = new IostatStream(agent, { lvolIds: ids });
    expect(idsOf(await both.next("of both"))).toEqual(ids.toSorted());
    expect(asked()).toEqual(two);

    // One that vanished ends nothing, also where its name is the filter.
    both.cancel();
    using stream = new IostatStream(agent, { lvolIds: ids.slice(0, 1) });
    await stream.next("with the volume", ({ iostats }) => iostats.length === 1);
    const bdev = target.state().lvol(lvol.status?.lvolUuid ?? "");
    if (bdev === undefined) throw new Error("no bdev");
    target.state().unregister(bdev);
    await stream.next("without the volume", ({ iostats }) => iostats.length === 0);
  });
});
