// One trace per intent, as a collector receives it over OTLP/gRPC.
import { Metadata, type ServiceError } from "@grpc/grpc-js";
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { z } from "zod";
import { Provisioning, type LvolSpec } from "../../src/gen/storagenode/v1/lvol.ts";
import { readConfig } from "../../src/config.ts";
import { createLog } from "../../src/telemetry/log.ts";
import { startTelemetry, type Telemetry } from "../../src/telemetry/telemetry.ts";
import { refusal, startAgent, until, type TestAgent } from "../support/agent.ts";
import { testDatabase, type TestDatabase } from "../support/database.ts";
import { kernelScenario } from "../support/kernel-scenario.ts";
import {
  startOtlpReceiver,
  treeOf,
  type OtlpReceiver,
  type ReceivedSpan,
} from "../support/otlp-receiver.ts";
import {
  CAN_KILL,
  REAL_SOCKET,
  simulatedTarget,
  startTarget,
  type TestTarget,
} from "../support/target.ts";
import { getLvol, GIB, lvolSpec, provision, remove, stateOf, WAIT } from "../support/volumes.ts";

let receiver: OtlpReceiver;
let telemetry: Telemetry;
let target: TestTarget;
let database: TestDatabase;
let agent: TestAgent;
const lines: Readonly<Record<string, unknown>>[] = [];

/** The trace in docs/observability.md. */
async function documented(): Promise<string> {
  const path = fileURLToPath(new URL("../../docs/observability.md", import.meta.url));
  const [, block = ""] = /```trace\n([^]*?)\n```/.exec(await readFile(path, "utf8")) ?? [];
  return block;
}

beforeAll(async () => {
  receiver = await startOtlpReceiver();
  telemetry = telemetryTo(receiver.url);
  target = await startTarget();
  database = await testDatabase();
  agent = await startAgent({ url: database.url, target }, {}, { telemetry, log: log() });
  await agent.ready();
  await until("the disks were looked at: no record of theirs shares a commit", () =>
    [...agent.node.agent.rows.disks()].every(({ healthTime }) => healthTime !== undefined),
  );
});

afterAll(async () => {
  await agent[Symbol.asyncDispose]();
  await telemetry[Symbol.asyncDispose]();
  await target[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
  await receiver[Symbol.asyncDispose]();
});

function log() {
  const shape = z.record(z.string(), z.unknown());
  const write = (line: string) => lines.push(shape.parse(JSON.parse(line)));
  return createLog({ level: "info", nodeId: "node-1" }, { write });
}

function telemetryTo(url: string): Telemetry {
  const { telemetry, ...node } = readConfig({
    DATABASE_URL: "postgresql:///x",
    STORAGE_NODE_ID: "node-1",
    STORAGE_NODE_FLEET: "test",
    OTEL_EXPORTER_OTLP_ENDPOINT: url,
    OTEL_BSP_SCHEDULE_DELAY: "10",
  });
  return startTelemetry(telemetry, { ...node, version: "0" });
}

const CALLER = "00f067aa0ba902b7";

/** Sends a call with the trace context of a caller. */
async function traced(
  traceId: string,
  send: (metadata: Metadata, done: (error: ServiceError | null) => void) => void,
): Promise<void> {
  const metadata = new Metadata();
  metadata.set("traceparent", `00-${traceId}-${CALLER}-01`);
  await new Promise<void>((resolve, reject) => {
    send(metadata, (error) => (error === null ? resolve() : reject(error)));
  });
}

/** Provisions a volume in a new trace; returns the trace id. */
async function provisionTraced(
  id: string,
  spec: Partial<LvolSpec> = {},
  waitTimeout = WAIT,
): Promise<string> {
  const traceId = randomUUID().replaceAll("-", "");
  const request = { id, spec: lvolSpec(spec), waitTimeout, validateOnly: false };
  await traced(traceId, (metadata, done) => agent.client.provisionLvol(request, metadata, done));
  return traceId;
}

/** Returns the trace once its root span has arrived. */
async function whole(traceId: string): Promise<readonly ReceivedSpan[]> {
  // The span of the call ends last, so it arrives last.
  const isRoot = ({ parentId }: ReceivedSpan) => parentId === CALLER;
  await until("the trace has arrived", () => receiver.trace(traceId).some(isRoot));
  return receiver.trace(traceId);
}

/** Resolves when the simulated target has read `more` further event polls. */
async function eventPolls(more: number): Promise<void> {
  const control = await target.control();
  const polls = async () => (await control.counts())["notify_get_notifications"] ?? 0;
  const before = await polls();
  await until(`${more} polls for events`, async () => (await polls()) >= before + more);
  await control[Symbol.asyncDispose]();
}

const names = (spans: readonly ReceivedSpan[]) => spans.map(({ name }) => name);

describe("the trace of ProvisionLvol", () => {
  it("matches docs/observability.md: every step, SPDK call and statement in the caller's trace", async () => {
    const spans = await whole(await provisionTraced(randomUUID()));
    expect(treeOf(spans)).toBe(await documented());
    const resource = spans[0]?.resource ?? {};
    expect(resource).toMatchObject({
      "service.name": "storage-node",
      "service.instance.id": "node-1",
    });
  });

  it("has loop, volume id and result on each step", async () => {
    const id = randomUUID();
    const spans = await whole(await provisionTraced(id));
    const step = spans.find(({ name }) => name === "add-namespace");
    expect(step?.attributes).toMatchObject({
      "storagenode.object.kind": "lvol",
      "storagenode.object.id": id,
      "storagenode.loop": "export",
      "storagenode.step.result": "ok",
    });
    const call = spans.find(({ name }) => name === "nvmf_subsystem_add_ns");
    expect(call?.kind).toBe("client");
    expect(call?.attributes).toMatchObject({
      "rpc.system.name": "jsonrpc",
      "rpc.status_code": "OK",
    });
    expect(spans.map(({ error }) => error)).not.toContainEqual(expect.any(String));
  });

  it("shows the error and the SPDK code of each failed attempt", async () => {
    const id = randomUUID();
    const big = { sizeBytes: 40n * GIB, provisioning: Provisioning.PROVISIONING_THICK };
    const [disk] = agent.node.agent.rows.disks();
    if (disk?.lvsUuid === undefined) throw new Error("no disk with a store");
    // A foreign lvol that the agent has not observed yet: the store has no space for both.
    const sizes = { sizeBytes: big.sizeBytes, thin: false, clearMethod: "write_zeroes" } as const;
    const { lvsUuid } = disk;
    const filling = await target.spdk.bdevLvolCreate({ lvsUuid, lvolName: "filling", ...sizes });
    const half = { seconds: 0n, nanos: 500_000_000 };
    const traceId = await provisionTraced(id, { ...big, diskId: disk.id }, half);
    await remove(agent, id);
    await target.spdk.bdevLvolDelete({ lvsUuid, name: filling });
    const spans = await whole(traceId);
    const steps = spans.filter(({ name }) => name === "create-lvol");
    expect(steps.length).toBeGreaterThan(1);
    for (const { error, attributes } of steps) {
      expect(error).toContain("No space left on device");
      expect(attributes["storagenode.step.result"]).toBe("retry");
    }
    const call = spans.find(({ name }) => name === "bdev_lvol_create");
    expect(call?.attributes["rpc.status_code"]).toBe("-32602");
  });

  it("does not grow when a host is allowed later: each intent has the trace of its own call", async () => {
    const id = randomUUID();
    const first = await provisionTraced(id);
    const before = (await whole(first)).length;
    const second = randomUUID().replaceAll("-", "");
    const { client } = agent;
    const host = "nqn.2014-08.org.nvmexpress:uuid:7c5d1e9a-0001-4000-8000-000000000002";
    await traced(second, (metadata, done) => {
      client.allowHost({ lvolId: id, hostNqn: host, waitTimeout: WAIT }, metadata, done);
    });
    expect(names(await whole(second))).toEqual(
      expect.arrayContaining(["commit allowHost", "allow-host", "nvmf_subsystem_add_host"]),
    );
    expect(receiver.trace(first)).toHaveLength(before);
  });
});

describe("a commit shared by several callers", () => {
  it("belongs to the trace of one caller, and the others link to it", async () => {
    const ids = Array.from({ length: 20 }, () => randomUUID());
    const traces = await Promise.all(
      (await Promise.all(ids.map((id) => provisionTraced(id)))).map((traceId) => whole(traceId)),
    );
    const commits = traces.map((spans) => spans.find(({ name }) => name === "commit provision"));
    const shared = commits.find(
      (commit) => Number(commit?.attributes["storagenode.commit.size"]) > 1,
    );
    expect(shared).toBeDefined();
    for (const [index, commit] of commits.entries()) {
      const own = traces[index]?.some(({ parentId }) => parentId === commit?.spanId);
      const linked = commit?.links.some(({ spanId }) =>
        commits.some((one) => one?.spanId === spanId),
      );
      expect(own !== linked).toBe(true);
    }
  });
});

describe("work without an intent", () => {
  it.skipIf(REAL_SOCKET !== undefined)("creates no spans while the node is idle", async () => {
    await eventPolls(1);
    const before = receiver.spans().length;
    await eventPolls(2);
    expect(names(receiver.spans().slice(before))).toEqual([]);
  });

  it.skipIf(!CAN_KILL)(
    "has its own trace after a restart of the target, linked to the intents",
    async () => {
      const id = randomUUID();
      const traceId = await provisionTraced(id);
      const before = (await whole(traceId)).length;
      await target.restart();
      await until(
        "it is up again",
        async () => stateOf(await getLvol(agent, id)) === "LVOL_STATE_UP",
      );
      await until("the repair has arrived", () => repairOf(id, traceId) !== undefined);
      const repair = repairOf(id, traceId);
      expect(repair?.links.map((link) => link.traceId)).toContain(traceId);
      const pass = receiver.spans().find(({ spanId }) => spanId === repair?.parentId);
      expect(pass).toMatchObject({ name: "reconcile lvol", parentId: undefined });
      expect(receiver.trace(traceId)).toHaveLength(before);
      expect(names(receiver.spans())).toContain("identify target");
    },
  );
});

/** The latest add-namespace span of the volume in another trace than the first. */
function repairOf(id: string, first: string): ReceivedSpan | undefined {
  return receiver
    .spans()
    .findLast(
      ({ name, attributes, traceId }) =>
        name === "add-namespace" && attributes["storagenode.object.id"] === id && traceId !== first,
    );
}

describe("a refused call", () => {
  it("has its code on the span, and the span has no error status", async () => {
    const traceId = randomUUID().replaceAll("-", "");
    const { client } = agent;
    await refusal(
      traced(traceId, (metadata, done) => client.getLvol({ lvolId: "x" }, metadata, done)),
    );
    const [span] = await whole(traceId);
    expect(span?.attributes["rpc.status_code"]).toBe("INVALID_ARGUMENT");
    expect(span?.error).toBeUndefined();
  });
});

describe("log lines", () => {
  it("carry the trace id and the object id", () => {
    const withTrace = lines.filter(({ trace_id }) => typeof trace_id === "string");
    const committed = withTrace.filter(
      ({ msg, intent }) => msg === "intent committed" && intent === "provision",
    );
    const steps = withTrace.filter(({ msg }) => msg === "step done");
    expect(committed.length).toBeGreaterThan(0);
    for (const { id, trace_id } of committed) {
      const made = steps.filter((line) => line["id"] === id && line["step"] === "create-lvol");
      for (const line of made) expect(line["trace_id"]).toBe(trace_id);
    }
  });
});

describe("an AdmitDisk", () => {
  it("shows each write to sysfs under the step that claims the disk", async () => {
    const disk = { address: "0000:01:00.0", serial: "S1", model: "M", iommuGroup: "1" };
    await using kernel = await kernelScenario({
      drives: [{ ...disk, namespaces: [{ sizeBytes: GIB, blockSizeBytes: 4096 }] }],
    });
    const { address: traddr, serial, model } = disk;
    const shape = { block_size: 4096, num_blocks: 262_144, trtype: "PCIe" };
    const disks = [{ serial, model, ...shape, traddr }];
    await using pcie = await simulatedTarget({ drives: { root: kernel.root, disks } });
    await using db = await testDatabase();
    const env = { STORAGE_NODE_DISK_POLICY: "manual", STORAGE_NODE_ROOT: kernel.root };
    const parts = { url: db.url, target: pcie, kernel: kernel.kernel };
    await using other = await startAgent(parts, env, { telemetry });
    await other.ready();
    await until("the disk is found", () => [...other.node.agent.rows.disks()].length === 1);
    const [row] = other.node.agent.rows.disks();
    const traceId = randomUUID().replaceAll("-", "");
    const request = {
      diskId: row?.id ?? "",
      serial: "S1",
      evidenceFingerprint: "",
      address: "",
      discardZeroes: false,
      waitTimeout: WAIT,
    };
    await traced(traceId, (metadata, done) => other.client.admitDisk(request, metadata, done));
    const spans = await whole(traceId);
    const claim = spans.find(({ name }) => name === "claim-controllers");
    const writes = spans.filter(({ parentId }) => parentId === claim?.spanId);
    expect(names(writes)).toEqual(
      expect.arrayContaining(["write unbind", "write driver_override"]),
    );
    expect(names(spans)).toEqual(
      expect.arrayContaining(["bdev_nvme_attach_controller", "bdev_lvol_create_lvstore"]),
    );
  });
});

describe("the trace of StreamIostat", () => {
  it("has none of the samples that the stream gets: they serve every reader", async () => {
    const traceId = randomUUID().replaceAll("-", "");
    const metadata = new Metadata();
    metadata.set("traceparent", `00-${traceId}-${CALLER}-01`);
    const interval = { seconds: 0n, nanos: 100_000_000 };
    const request = { lvolIds: [], diskIds: [], includeDisks: true, interval };
    const stream = agent.client.streamIostat(request, metadata);
    stream.on("error", () => {});
    let frames = 0;
    stream.on("data", () => (frames += 1));
    await until("it has three frames", () => frames >= 3);
    stream.cancel();
    expect(names(await whole(traceId))).toEqual(["storagenode.v1.StorageNode/StreamIostat"]);
  });
});

describe("an unavailable collector", () => {
  it("delays no call, and does not prevent the agent from stopping", async () => {
    await using gone = await startOtlpReceiver();
    const { url } = gone;
    await gone[Symbol.asyncDispose]();
    const elsewhere = telemetryTo(url);
    await using db = await testDatabase();
    await using own = await simulatedTarget({});
    const other = await startAgent({ url: db.url, target: own }, {}, { telemetry: elsewhere });
    await other.ready();
    const made = await Promise.all(Array.from({ length: 50 }, () => provision(other)));
    expect(new Set(made.map(stateOf))).toEqual(new Set(["LVOL_STATE_UP"]));
    await other[Symbol.asyncDispose]();
    await elsewhere[Symbol.asyncDispose]();
  });
});
