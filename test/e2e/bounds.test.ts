// What one caller may ask for, keep open and leave unread, so that no other caller notices it.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { call, refusal, startAgent, type TestAgent } from "../support/agent.ts";
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
