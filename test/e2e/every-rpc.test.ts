// Calls every method of the service with a client built from the proto files only: each answers,
// and methods that are not implemented say so in a sentence.
import { Client, credentials, Metadata } from "@grpc/grpc-js";
import { loadSync, type AnyDefinition, type ServiceDefinition } from "@grpc/proto-loader";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, it } from "vitest";
import { refusal, startAgent, type TestAgent } from "../support/agent.ts";
import { testDatabase } from "../support/database.ts";
import { startTarget } from "../support/target.ts";

const SERVICE = "storagenode.v1.StorageNode";
const PROTO = fileURLToPath(new URL("../../proto/", import.meta.url));
const UNIMPLEMENTED = 12;
/** Reasons with which an implemented method may refuse an empty request. */
const SENSIBLE = ["INVALID_FIELD", "NOT_FOUND"];

const definitions = loadSync("storagenode/v1/storage_node.proto", { includeDirs: [PROTO] });
const service = serviceOf(definitions[SERVICE]);
const stack = new AsyncDisposableStack();
let agent: TestAgent;
let client: Client;

function serviceOf(definition: AnyDefinition | undefined): ServiceDefinition {
  if (definition === undefined || "format" in definition) throw new Error(`no ${SERVICE}`);
  return definition;
}

beforeAll(async () => {
  const database = stack.use(await testDatabase());
  const target = stack.use(await startTarget());
  agent = stack.use(await startAgent({ url: database.url, target }));
  await agent.ready();
  client = new Client(agent.address, credentials.createInsecure());
  stack.defer(() => client.close());
});

afterAll(async () => {
  await stack.disposeAsync();
});

it.each(Object.values(service).map((method) => [method.path, method] as const))(
  "%s answers",
  async (_name, method) => {
    const call = new Promise((resolve, reject) => {
      const { path, requestSerialize, responseDeserialize } = method;
      if (method.responseStream) {
        const stream = client.makeServerStreamRequest(
          path,
          requestSerialize,
          responseDeserialize,
          {},
        );
        stream.once("data", resolve);
        stream.once("error", reject);
        return;
      }
      const metadata = new Metadata();
      client.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        {},
        metadata,
        (error, answer) => {
          if (error === null) resolve(answer);
          else reject(error);
        },
      );
    });
    const refused = await refusal(call).catch(() => undefined);
    if (refused === undefined) {
      expect(await call).toBeTypeOf("object");
      return;
    }
    expect(refused.message).toMatch(/ /);
    if (refused.code === UNIMPLEMENTED) expect(refused.reason).toBe("NOT_IMPLEMENTED");
    else expect(SENSIBLE).toContain(refused.reason);
  },
);
