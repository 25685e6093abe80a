// The HTTP port over TLS, and the span of a call, by a client with a certificate.
import { join } from "node:path";
import { get } from "node:https";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readConfig } from "../../src/config.ts";
import { startTelemetry } from "../../src/telemetry/telemetry.ts";
import {
  accessFiles,
  COMPUTE,
  MONITOR,
  SCHEDULER,
  shows,
  tlsClient,
  type AccessFiles,
} from "../support/access.ts";
import { call, startAgent, until, type TestAgent } from "../support/agent.ts";
import type { KeyPair } from "../support/certificates.ts";
import { testDatabase } from "../support/database.ts";
import { startOtlpReceiver, type OtlpReceiver } from "../support/otlp-receiver.ts";

const stack = new AsyncDisposableStack();
let files: AccessFiles;
let receiver: OtlpReceiver;
let agent: TestAgent;

beforeAll(async () => {
  const database = stack.use(await testDatabase());
  files = stack.use(await accessFiles());
  receiver = stack.use(await startOtlpReceiver());
  const env = { ...files.env, OTEL_EXPORTER_OTLP_ENDPOINT: receiver.url };
  const config = readConfig({ ...env, DATABASE_URL: database.url });
  const telemetry = stack.use(startTelemetry(config.telemetry, { ...config, version: "test" }));
  const target = { socket: join(files.folder, "nobody"), fabricDisks: "" };
  agent = stack.use(await startAgent({ url: database.url, target }, env, { telemetry }));
});

afterAll(async () => {
  await stack.disposeAsync();
});

async function ask(path: string, pair?: KeyPair): Promise<{ code: number; text: string }> {
  const port = Number(agent.node.httpAddress?.split(":").at(-1));
  const at = { host: "localhost", port, path, ca: files.authority.pem, agent: false as const };
  return await new Promise((resolve, reject) => {
    get({ ...at, ...pair }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (part: string) => (text += part));
      response.on("end", () => resolve({ code: response.statusCode ?? 0, text }));
    }).on("error", reject);
  });
}

describe("the HTTP port", () => {
  it("shows the metrics to a monitor", async () => {
    const { code, text } = await ask("/metrics", await files.certificate(MONITOR));
    expect(code).toBe(200);
    expect(text).toContain("storagenode_condition");
  });

  it("shows them to nobody else, and says why", async () => {
    expect(await ask("/metrics")).toEqual({
      code: 401,
      text: "NO_CERTIFICATE: this call needs a client certificate\n",
    });
    const compute = await ask("/metrics", await files.certificate(COMPUTE));
    expect(compute.code).toBe(403);
    expect(compute.text).toContain("ROLE_REQUIRED: /metrics needs the role monitor or operator");
  });

  it("tells everybody whether the node is ready, and a monitor why it is not", async () => {
    expect(await ask("/healthz")).toEqual({ code: 200, text: "ok\n" });
    expect(await ask("/readyz")).toEqual({ code: 503, text: "not ready\n" });
    const monitor = await ask("/readyz", await files.certificate(MONITOR));
    expect(monitor.text).toMatch(/^target: /m);
  });

  it("answers nothing without TLS", async () => {
    await expect(fetch(`http://${agent.node.httpAddress}/healthz`)).rejects.toThrow("fetch failed");
  });
});

it("the span of a call has the name of who called", async () => {
  using client = tlsClient(
    agent.address,
    shows(files.authority.pem, await files.certificate(SCHEDULER)),
  );
  await call(client, client.getHealth.bind(client), {});
  const actors = () =>
    receiver
      .spans()
      .filter(({ name }) => name.endsWith("/GetHealth"))
      .map(({ attributes }) => attributes["storagenode.actor"]);
  await until("the span has arrived", () => actors().length > 0);
  expect(actors()).toEqual([SCHEDULER]);
});
