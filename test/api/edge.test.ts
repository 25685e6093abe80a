// The edge of the API over the wire: what is checked before anything happens, what generic clients
// rely on (reflection, health, deadlines), and how calls end when the agent stops. No target is there:
// nothing of this needs one.
import { credentials, status } from "@grpc/grpc-js";
import { execFile } from "node:child_process";
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { HealthClient } from "../../src/gen/grpc/health/v1/health.ts";
import { ServerReflectionClient } from "../../src/gen/grpc/reflection/v1/reflection.ts";
import { ServerReflectionClient as AlphaClient } from "../../src/gen/grpc/reflection/v1alpha/reflection.ts";
import { call, refusal, startAgent, until, type TestAgent } from "../support/agent.ts";
import { testDatabase } from "../support/database.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { HOST, lvolSpec, provision, type ProvisionOptions } from "../support/volumes.ts";

const SERVICE = "storagenode.v1.StorageNode";
const BUF = fileURLToPath(new URL("../../node_modules/@bufbuild/buf/bin/buf", import.meta.url));

const stack = new AsyncDisposableStack();
let agent: TestAgent;

async function agentWithoutTarget(owner: AsyncDisposableStack): Promise<TestAgent> {
  const database = owner.use(await testDatabase());
  const folder = owner.use(await temporaryFolder());
  const target = { socket: join(folder.path, "nobody"), fabricDisks: "" };
  const started = owner.use(await startAgent({ url: database.url, target }));
  await until("the database is read", () => started.node.agent.rows.node !== undefined);
  return started;
}

beforeAll(async () => {
  agent = await agentWithoutTarget(stack);
});

afterAll(async () => {
  await stack.disposeAsync();
});

type Change = Parameters<typeof lvolSpec>[0];

describe("a request", () => {
  it("with several faults is answered with all of them", async () => {
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
  ])("for a volume with %s", async (_what, change, options, code, field) => {
    const refused = await refusal(provision(agent, change, options));
    expect(refused).toMatchObject({ code, reason: "INVALID_FIELD", fields: [field] });
  });

  it.each([
    [{ pageSize: -1, pageToken: "" }, "page_size"],
    [{ pageSize: 0, pageToken: "garbage" }, "page_token"],
  ])("for the page %j names the field", async (page, field) => {
    const { client } = agent;
    const refused = await refusal(call(client, client.listDisks.bind(client), page));
    expect(refused).toMatchObject({ code: 3, reason: "INVALID_FIELD", fields: [field] });
  });

  it("for a page of a million is answered with as many as there may be", async () => {
    const { client } = agent;
    const page = { pageSize: 1_000_000, pageToken: "" };
    expect(await call(client, client.listDisks.bind(client), page)).toMatchObject({ disks: [] });
  });

  it("by force, without a reason, is refused: somebody will ask why", async () => {
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
});

describe("a generic client", () => {
  it("finds every method by reflection alone: buf curl lists and calls", async () => {
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
  ] as const)(
    "is answered in reflection %s, with a file and all it needs",
    async (_name, Client) => {
      const client = new Client(agent.address, credentials.createInsecure());
      const stream = client.serverReflectionInfo();
      const answered = new Promise((resolve, reject) => {
        stream.once("data", resolve);
        stream.once("error", reject);
      });
      stream.write({
        host: "",
        messageRequest: { $case: "fileContainingSymbol", value: SERVICE },
      });
      expect(await answered).toMatchObject({
        messageResponse: { $case: "fileDescriptorResponse" },
      });
      stream.end();
      client.close();
    },
  );
});

describe("grpc.health.v1", () => {
  it("says alive for the process and not serving for an agent whose target is away", async () => {
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

  it("tells a watcher at once, and ends its stream when the agent stops", async () => {
    await using owner = new AsyncDisposableStack();
    const other = await agentWithoutTarget(owner);
    const client = new HealthClient(other.address, credentials.createInsecure());
    const stream = client.watch({ service: SERVICE });
    const ended = new Promise((resolve) => stream.once("error", resolve).once("end", resolve));
    const first = await new Promise((resolve) => stream.once("data", resolve));
    expect(first).toMatchObject({ status: "NOT_SERVING" });
    await owner.disposeAsync();
    await ended;
    client.close();
  });
});
