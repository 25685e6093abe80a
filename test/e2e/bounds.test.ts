// What one caller may ask for, keep open and leave unread, so that no other caller notices it.
import { once } from "node:events";
import { connect, constants } from "node:http2";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { StorageNodeService } from "../../src/gen/storagenode/v1/storage_node.ts";
import { call, refusal, startAgent, type TestAgent } from "../support/agent.ts";
import { collectGarbage } from "../support/collect-garbage.ts";
import { testDatabase } from "../support/database.ts";
import { REAL_SOCKET, startTarget } from "../support/target.ts";
import { idOf, provision } from "../support/volumes.ts";

const MIB = 1024n ** 2n;
const VOLUMES = 60;
const HOSTS = 256;

const stack = new AsyncDisposableStack();
let agent: TestAgent;

beforeAll(async () => {
  const database = stack.use(await testDatabase());
  const target = stack.use(await startTarget());
  agent = stack.use(await startAgent({ url: database.url, target }));
  await agent.ready();
});

afterAll(async () => {
  await stack.disposeAsync();
});

/** As long as a name of a host may be. */
const hostNqn = (index: number) => `nqn.2026-11.io.example:${String(index).padStart(200, "h")}`;
const longHosts = Array.from({ length: HOSTS }, (_, index) => hostNqn(index));
const longLabels = Object.fromEntries(
  Array.from({ length: 64 }, (_, index) => [
    `${"p".repeat(253)}/${"n".repeat(60)}${index}`,
    "v".repeat(256),
  ]),
);

describe.skipIf(REAL_SOCKET !== undefined)("60 volumes with all the hosts they may have", () => {
  const ids: string[] = [];

  beforeAll(async () => {
    const spec = { sizeBytes: 4n * MIB, allowedHostNqns: longHosts, labels: longLabels };
    const made = await Promise.all(
      Array.from({ length: VOLUMES }, () => provision(agent, spec, { wait: false })),
    );
    ids.push(...made.map(idOf).toSorted());
  });

  it.each(["lvols", "exports"] as const)("are all listed, as %s", async (kind) => {
    const { client } = agent;
    const listed: string[] = [];
    let pageToken = "";
    do {
      const page = { pageSize: 500, pageToken };
      if (kind === "lvols") {
        const request = { ...page, diskId: "", showDeleted: false };
        const answer = await call(client, client.listLvols.bind(client), request);
        listed.push(...answer.lvols.map(idOf));
        pageToken = answer.nextPageToken;
      } else {
        const request = { ...page, hostNqn: "" };
        const answer = await call(client, client.listExports.bind(client), request);
        listed.push(...answer.exports.map(({ lvolId }) => lvolId));
        pageToken = answer.nextPageToken;
      }
    } while (pageToken !== "");
    expect(listed).toEqual(ids);
  });

  it("are read by others while a client reads none of its 300 lists", async () => {
    const { path, requestSerialize } = StorageNodeService.listLvols;
    const list = requestSerialize({ pageSize: 500, pageToken: "", diskId: "", showDeleted: false });
    const message = Buffer.concat([Buffer.from([0, 0, 0, 0, list.length]), list]);
    await collectGarbage();
    const before = process.memoryUsage().external;
    const session = connect(`http://${agent.address}`, { settings: { initialWindowSize: 0 } });
    // After 100 of these the agent closes the connection.
    session.on("error", () => {});
    const headers = { ":path": path, "content-type": "application/grpc", te: "trailers" };
    const streams = Array.from({ length: 300 }, () => {
      const stream = session.request({ ":method": "POST", ...headers });
      stream.end(message);
      return stream;
    });
    // Each is answered, as far as the client knows, or refused as long as so much is unread.
    const codes = await Promise.all(
      streams.map(async (stream) => {
        const refused = once(stream, "error").then(() => stream.rstCode);
        return await Promise.race([once(stream, "response").then(() => 0), refused]);
      }),
    );
    expect(codes.filter((code) => code === 0).length).toBeGreaterThan(50);
    expect(codes).toContain(constants.NGHTTP2_ENHANCE_YOUR_CALM);
    await collectGarbage();
    expect((process.memoryUsage().external - before) / 1024 ** 2).toBeLessThan(150);
    const { client } = agent;
    expect(await call(client, client.getNode.bind(client), {})).toMatchObject({ nodeId: "node-1" });
    session.destroy();
  });

  it("take no further host, until one is revoked", async () => {
    const { client } = agent;
    const change = { lvolId: ids[0] ?? "", hostNqn: hostNqn(HOSTS), waitTimeout: undefined };
    const allow = () => call(client, client.allowHost.bind(client), change);
    expect(await refusal(allow())).toMatchObject({ reason: "HOST_LIMIT" });
    await call(client, client.revokeHost.bind(client), { ...change, hostNqn: hostNqn(0) });
    expect(await allow()).toMatchObject({ lvol: { meta: { id: ids[0] } } });
    expect(await refusal(provision(agent, { allowedHostNqns: [...longHosts, hostNqn(256)] }))) //
      .toMatchObject({ reason: "INVALID_FIELD", fields: ["spec.allowed_host_nqns"] });
  });
});
