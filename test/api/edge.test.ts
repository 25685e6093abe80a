// The API over the wire, without a target: validation of requests, reflection and health.
import { create, createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema, FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { credentials, status } from "@grpc/grpc-js";
import { execFile } from "node:child_process";
import { randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { StorageNodeService } from "../../src/gen/storagenode/v1/storage_node.ts";
import { HealthClient } from "../../src/gen/grpc/health/v1/health.ts";
import {
  ServerReflectionClient,
  type ServerReflectionRequest,
  type ServerReflectionResponse,
} from "../../src/gen/grpc/reflection/v1/reflection.ts";
import { ServerReflectionClient as AlphaClient } from "../../src/gen/grpc/reflection/v1alpha/reflection.ts";
import { call, refusal, type TestAgent } from "../support/agent.ts";
import { agentWithoutTarget } from "../support/agent-without-target.ts";
import { HOST, lvolSpec, provision, remove, type ProvisionOptions } from "../support/volumes.ts";

const SERVICE = "storagenode.v1.StorageNode";
const BUF = fileURLToPath(new URL("../../node_modules/@bufbuild/buf/bin/buf", import.meta.url));

const stack = new AsyncDisposableStack();
let agent: TestAgent;

beforeAll(async () => {
  agent = await agentWithoutTarget(stack);
});

afterAll(async () => {
  await stack.disposeAsync();
});

type Change = Parameters<typeof lvolSpec>[0];

const many = (text: string) => Array.from({ length: 1_000 }, (_, index) => `${text} ${index}`);
const manyLabels = Object.fromEntries(many("label").map((key) => [key, "x"]));

describe("a request", () => {
  it("with several violations is answered with all of them", async () => {
    const { client } = agent;
    const spec = lvolSpec({
      sizeBytes: 0n,
      provisioning: "UNRECOGNIZED",
      diskId: "disk-1",
      allowedHostNqns: [HOST, "host"],
      labels: { "": "x" },
    });
    const request = {
      id: "NOT-A-UUID",
      spec,
      waitTimeout: { seconds: -1n, nanos: 0 },
      validateOnly: false,
    };
    const { reason, code, fields } = await refusal(
      call(client, client.provisionLvol.bind(client), request),
    );
    expect({ reason, code }).toEqual({ reason: "INVALID_FIELD", code: status.INVALID_ARGUMENT });
    expect(fields.toSorted()).toEqual([
      "id",
      "spec.allowed_host_nqns[1]",
      "spec.disk_id",
      'spec.labels[""]',
      "spec.provisioning",
      "spec.size_bytes",
      "wait_timeout",
    ]);
  });

  it.each<[string, Change, string]>([
    [
      "10,000 bad hosts",
      { allowedHostNqns: Array.from({ length: 10_000 }, () => "bad") },
      "(and 252 more)",
    ],
    [
      "bad hosts and labels",
      { allowedHostNqns: many("host"), labels: manyLabels },
      "(and 317 more)",
    ],
    ["a label key of 1 MB", { labels: { ["é".repeat(500_000)]: "x" } }, "more bytes)"],
    ["half of a surrogate pair as a label key", { labels: { "\ud800": "x" } }, "\ufffd"],
  ])(
    "with %s is refused, and ends no other call of its connection",
    async (_what, change, said) => {
      const { client } = agent;
      const watcher = client.watch({ fromRevision: 0n, bookmarkInterval: undefined });
      const ended = new Promise((resolve) => watcher.once("error", resolve));
      await new Promise((resolve) => watcher.once("data", resolve));
      const others = Array.from({ length: 20 }, () =>
        call(client, client.getNode.bind(client), {}),
      );
      const refused = await refusal(provision(agent, change));
      expect(refused).toMatchObject({ code: status.INVALID_ARGUMENT, reason: "INVALID_FIELD" });
      expect(refused.message).toContain(said);
      await Promise.all(others);
      const next = Promise.race([ended, call(client, client.getNode.bind(client), {})]);
      expect(await next).toMatchObject({ nodeId: "node-1" });
      watcher.cancel();
    },
  );

  it.each<[string, Change, ProvisionOptions, number, string]>([
    ["an id in upper case", {}, { id: randomUUID().toUpperCase() }, 3, "id"],
    ["an id with braces", {}, { id: `{${randomUUID()}}` }, 3, "id"],
    ["no id", {}, { id: "" }, 3, "id"],
    ["no bytes", { sizeBytes: 0n }, {}, 3, "spec.size_bytes"],
    ["2^63 bytes", { sizeBytes: 2n ** 63n }, {}, 11, "spec.size_bytes"],
    ["2^64 - 1 bytes", { sizeBytes: 2n ** 64n - 1n }, {}, 11, "spec.size_bytes"],
    ["a host that is no NQN", { allowedHostNqns: ["iqn.x"] }, {}, 3, "spec.allowed_host_nqns[0]"],
    [
      "a host longer than any NQN",
      { allowedHostNqns: [`nqn.2014-08.org.x:${"h".repeat(223)}`] },
      {},
      3,
      "spec.allowed_host_nqns[0]",
    ],
    [
      "a host that the target refuses",
      { allowedHostNqns: ["nqn.2014-08.org.nvmexpress:uuid:1"] },
      {},
      3,
      "spec.allowed_host_nqns[0]",
    ],
    [
      "NUL in a host",
      { allowedHostNqns: ["nqn.2026-11.io.example:a\0"] },
      {},
      3,
      "spec.allowed_host_nqns[0]",
    ],
    ["NUL in a label", { labels: { app: "a\0" } }, {}, 3, 'spec.labels["app"]'],
  ])("for a volume with %s", async (_what, change, options, code, field) => {
    const refused = await refusal(provision(agent, change, options));
    expect(refused).toMatchObject({ code, reason: "INVALID_FIELD", fields: [field] });
  });

  it("without a spec says that it must be set", async () => {
    const { client } = agent;
    const refused = await refusal(
      call(client, client.provisionLvol.bind(client), {
        id: randomUUID(),
        spec: undefined,
        waitTimeout: undefined,
        validateOnly: false,
      }),
    );
    expect(refused).toMatchObject({ code: 3, reason: "INVALID_FIELD", fields: ["spec"] });
  });

  it.each([
    ["a nanosecond below 0", { seconds: 0n, nanos: -1 }],
    ["a nanosecond above 10 minutes", { seconds: 600n, nanos: 1 }],
    ["2^63 - 1 seconds", { seconds: 2n ** 63n - 1n, nanos: 0 }],
    ["more nanoseconds than a second has", { seconds: 0n, nanos: 1_000_000_000 }],
    ["seconds and nanoseconds of different signs", { seconds: 1n, nanos: -1 }],
  ])("to wait for %s names wait_timeout", async (_what, waitTimeout) => {
    const { client } = agent;
    const id = randomUUID();
    const refused = await refusal(
      call(client, client.allowHost.bind(client), { lvolId: id, hostNqn: HOST, waitTimeout }),
    );
    expect(refused).toMatchObject({ code: 3, reason: "INVALID_FIELD", fields: ["wait_timeout"] });
  });

  it("to wait for exactly 10 minutes is accepted", async () => {
    const { client } = agent;
    const waitTimeout = { seconds: 600n, nanos: 0 };
    const request = { lvolId: randomUUID(), hostNqn: HOST, waitTimeout };
    const refused = await refusal(call(client, client.allowHost.bind(client), request));
    expect(refused).toMatchObject({ reason: "NOT_FOUND" });
  });

  it("with an enum number of a newer API version is refused", async () => {
    const sent = (number: number) =>
      new Promise((resolve, reject) => {
        const spec = Buffer.from([0x08, 0x01, 0x10, number]);
        const id = Buffer.from(randomUUID());
        const bytes = Buffer.concat([
          Buffer.from([0x0a, id.length]),
          id,
          Buffer.from([0x12, spec.length]),
          spec,
        ]);
        const { path, responseDeserialize } = StorageNodeService.provisionLvol;
        const { client } = agent;
        const send = (request: Buffer) => request;
        client.makeUnaryRequest(path, send, responseDeserialize, bytes, (error, answer) => {
          if (error === null) resolve(answer);
          else reject(error);
        });
      });
    const refused = await refusal(sent(99));
    expect(refused).toMatchObject({ code: 3, fields: ["spec.provisioning"] });
    // With a known number the same bytes are a valid request: it fails only for lack of a disk.
    expect(await refusal(sent(1))).toMatchObject({ reason: "DISK_NOT_UP" });
  });

  it.each([
    [{ pageSize: -1, pageToken: "" }, "page_size"],
    [{ pageSize: -(2 ** 31), pageToken: "" }, "page_size"],
    [{ pageSize: 0, pageToken: "garbage" }, "page_token"],
    [{ pageSize: 0, pageToken: Buffer.from("no id").toString("base64url") }, "page_token"],
  ])("for the page %j names the field", async (page, field) => {
    const { client } = agent;
    const refused = await refusal(call(client, client.listDisks.bind(client), page));
    expect(refused).toMatchObject({ code: 3, reason: "INVALID_FIELD", fields: [field] });
  });

  it("for a page larger than the limit is answered with a page of the limit", async () => {
    const { client } = agent;
    const page = { pageSize: 1_000_000, pageToken: "" };
    expect(await call(client, client.listDisks.bind(client), page)).toMatchObject({ disks: [] });
  });

  it.each([
    ["allowHost", "nqn.2026-11.io.example:a\0", "INVALID_FIELD"],
    ["allowHost", "nqn.2026-11.io.example", "INVALID_FIELD"],
    ["revokeHost", "nqn.2026-11.io.example:a\0", "INVALID_FIELD"],
    ["revokeHost", "", "INVALID_FIELD"],
    // Accepted by an earlier version, and to be removed.
    ["revokeHost", "nqn.2026-11.io.example", "NOT_FOUND"],
  ] as const)("to %s %j is refused with %s", async (method, hostNqn, reason) => {
    const { client } = agent;
    const request = { lvolId: randomUUID(), hostNqn, waitTimeout: undefined };
    const refused = await refusal(call(client, client[method].bind(client), request));
    const fields = reason === "INVALID_FIELD" ? ["host_nqn"] : [];
    expect(refused).toMatchObject({ reason, fields });
  });

  it("with force but without a reason is refused", async () => {
    const { client } = agent;
    const refused = await refusal(
      call(client, client.delete.bind(client), {
        target: { $case: "lvolId", value: randomUUID() },
        waitTimeout: undefined,
        deferred: false,
        force: true,
        reason: " ",
      }),
    );
    expect(refused).toMatchObject({ code: 3, reason: "INVALID_FIELD", fields: ["reason"] });
  });

  it("with NUL in its reason is refused", async () => {
    const refused = await refusal(remove(agent, randomUUID(), { force: true, reason: "a\0" }));
    expect(refused).toMatchObject({ code: 3, reason: "INVALID_FIELD", fields: ["reason"] });
  });
});

describe("a generic client", () => {
  it("needs only reflection: buf curl lists services and methods, and calls one", async () => {
    const url = `http://${agent.address}`;
    const buf = async (...args: readonly string[]) => {
      const common = ["curl", "--http2-prior-knowledge", "--protocol", "grpc"];
      const { stdout } = await promisify(execFile)(process.execPath, [BUF, ...common, ...args]);
      return stdout;
    };
    const [services, methods, node] = await Promise.all([
      buf("--list-services", url),
      buf("--list-methods", url),
      buf(`${url}/${SERVICE}/GetNode`),
    ]);
    expect(services.split("\n")).toContain(SERVICE);
    expect(methods).toContain(`${SERVICE}/ProvisionLvol`);
    expect(JSON.parse(node)).toMatchObject({ nodeId: "node-1" });
  });

  it.each([
    ["v1", ServerReflectionClient],
    ["v1alpha", AlphaClient],
  ] as const)("lists and resolves by reflection %s, down to one method", async (_name, Client) => {
    const client = new Client(agent.address, credentials.createInsecure());
    const stream = client.serverReflectionInfo();
    const answers = stream[Symbol.asyncIterator]();
    const ask = async (messageRequest: ServerReflectionRequest["messageRequest"]) => {
      stream.write({ host: "", messageRequest });
      const { value }: { value: ServerReflectionResponse | undefined } = await answers.next();
      return value?.messageResponse;
    };
    const listed = await ask({ $case: "listServices", value: "" });
    const services = listed?.$case === "listServicesResponse" ? listed.value.service : [];
    expect(services.map(({ name }) => name)).toEqual([
      SERVICE,
      "grpc.health.v1.Health",
      "grpc.reflection.v1.ServerReflection",
      "grpc.reflection.v1alpha.ServerReflection",
    ]);
    // A client builds its descriptors from the answer alone: a missing import would throw here.
    for (const value of [...services.map(({ name }) => name), `${SERVICE}.ProvisionLvol`]) {
      const file = await ask({ $case: "fileContainingSymbol", value });
      const protos = file?.$case === "fileDescriptorResponse" ? file.value.fileDescriptorProto : [];
      const files = protos.map((bytes) => fromBinary(FileDescriptorProtoSchema, bytes));
      const registry = createFileRegistry(
        create(FileDescriptorSetSchema, { file: files.toReversed() }),
      );
      const service = value.replace(/\.ProvisionLvol$/, "");
      expect(registry.getService(service)?.methods.length).toBeGreaterThan(0);
    }
    expect(await ask({ $case: "fileContainingSymbol", value: "no.Such" })).toMatchObject({
      $case: "errorResponse",
      value: { errorCode: status.NOT_FOUND },
    });
    stream.cancel();
    client.close();
  });
});

describe("grpc.health.v1", () => {
  it("reports SERVING for the process and NOT_SERVING for an agent without a target", async () => {
    const client = new HealthClient(agent.address, credentials.createInsecure());
    const check = async (service: string) =>
      await new Promise((resolve, reject) => {
        client.check({ service }, (error, answer) => {
          if (error === null) resolve(answer.status);
          else reject(error);
        });
      });
    expect(await check("")).toBe("SERVING");
    expect(await check(SERVICE)).toBe("NOT_SERVING");
    expect(await refusal(check("nobody.v1.Nothing"))).toMatchObject({ code: status.NOT_FOUND });
    client.close();
  });

  it("streams the status at once, and ends the stream when the agent stops", async () => {
    await using owner = new AsyncDisposableStack();
    const other = await agentWithoutTarget(owner);
    const client = new HealthClient(other.address, credentials.createInsecure());
    const stream = client.watch({ service: SERVICE });
    const ended = new Promise((resolve) => stream.once("error", resolve).once("end", resolve));
    const first = await new Promise((resolve) => stream.once("data", resolve));
    expect(first).toMatchObject({ status: "NOT_SERVING" });
    // A client of reflection that has nothing to ask at the moment.
    const reflection = new ServerReflectionClient(other.address, credentials.createInsecure());
    const idle = reflection.serverReflectionInfo();
    idle.write({ host: "", messageRequest: { $case: "listServices", value: "" } });
    await new Promise((resolve) => idle.once("data", resolve));
    const told = refusal(new Promise((_, reject) => idle.once("error", reject)));
    await owner.disposeAsync();
    expect(await told).toMatchObject({ reason: "NOT_LEASE_HOLDER" });
    await ended;
    reflection.close();
    client.close();
  });
});
