// Who may call over TLS: certificates that are refused, roles, what a compute node may read, and where it
// is written down who asked.
import { status, type ChannelCredentials, type Client } from "@grpc/grpc-js";
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { HealthClient } from "../../src/gen/grpc/health/v1/health.ts";
import { ServerReflectionClient } from "../../src/gen/grpc/reflection/v1/reflection.ts";
import {
  StorageNodeService,
  type StorageNodeClient,
} from "../../src/gen/storagenode/v1/storage_node.ts";
import {
  accessFiles,
  COMPUTE,
  HOST,
  MONITOR,
  namesOf,
  OPERATOR,
  OTHER_HOST,
  OWN,
  SCHEDULER,
  shows,
  tlsClient,
  type AccessFiles,
} from "../support/access.ts";
import { call, refusal, startAgent, until, type TestAgent } from "../support/agent.ts";
import { Authority } from "../support/certificates.ts";
import { testDatabase } from "../support/database.ts";
import { eventsOf } from "../support/events.ts";
import { startTarget } from "../support/target.ts";
import { idOf, provision, remove } from "../support/volumes.ts";

const stack = new AsyncDisposableStack();
const logged: string[] = [];
let files: AccessFiles;
let agent: TestAgent;

beforeAll(async () => {
  const database = stack.use(await testDatabase());
  const target = stack.use(await startTarget());
  files = stack.use(await accessFiles());
  const env = { ...files.env, STORAGE_NODE_SOCKET: join(files.folder, "agent.sock") };
  const log = pino({ level: "info" }, { write: (line: string) => void logged.push(line) });
  agent = stack.use(await startAgent({ url: database.url, target }, env, { log }));
  await agent.ready();
});

afterAll(async () => {
  await stack.disposeAsync();
});

async function as(name: string): Promise<ChannelCredentials> {
  return shows(files.authority.pem, await files.certificate(name));
}

/** The refusal of a call that needs a role. */
async function refusedWith(how: ChannelCredentials) {
  using client = tlsClient(agent.address, how);
  return await refusal(call(client, client.getHealth.bind(client), {}));
}

describe("a client", () => {
  const HOUR_MS = 3_600_000;
  const after = (hours: number) => new Date(Date.now() + hours * HOUR_MS);
  const names = namesOf(SCHEDULER);

  it("with a certificate whose name is known may call", async () => {
    using client = tlsClient(agent.address, await as(SCHEDULER));
    expect(await call(client, client.getHealth.bind(client), {})).toMatchObject({ ready: true });
  });

  it("whose certificate an intermediate CA has signed may call", async () => {
    const intermediate = await files.authority.intermediate("intermediate");
    const pair = await intermediate.sign(names);
    using client = tlsClient(agent.address, shows(files.authority.pem, pair));
    expect(await call(client, client.getHealth.bind(client), {})).toMatchObject({ ready: true });
  });

  it("without a certificate is UNAUTHENTICATED", async () => {
    const refused = await refusedWith(shows(files.authority.pem));
    expect(refused).toMatchObject({ code: status.UNAUTHENTICATED, reason: "NO_CERTIFICATE" });
  });

  it.each([
    ["expired", { notBefore: after(-2), notAfter: after(-1) }, "CERT_HAS_EXPIRED"],
    ["not yet valid", { notBefore: after(1), notAfter: after(2) }, "CERT_NOT_YET_VALID"],
  ])("with a certificate that is %s is UNAUTHENTICATED", async (_what, dates, error) => {
    const pair = await files.authority.sign(names, dates);
    const refused = await refusedWith(shows(files.authority.pem, pair));
    expect(refused).toMatchObject({
      code: status.UNAUTHENTICATED,
      reason: "CERTIFICATE_INVALID",
      metadata: { error },
    });
  });

  it("with a certificate of another CA is UNAUTHENTICATED, whatever its name", async () => {
    const other = await Authority.root();
    const refused = await refusedWith(shows(files.authority.pem, await other.sign(names)));
    expect(refused).toMatchObject({
      code: status.UNAUTHENTICATED,
      reason: "CERTIFICATE_INVALID",
    });
  });
});

describe("roles", async () => {
  const methods = Object.values(StorageNodeService);
  const table = await documentedRoles();

  it("docs/security.md names every method", () => {
    const named = methods.map(({ path }) => path.slice(path.lastIndexOf("/") + 1));
    expect([...table.keys()].toSorted()).toEqual(named.toSorted());
  });

  it.each(["scheduler", "compute", "operator", "monitor"] as const)(
    "%s may call what docs/security.md says, and nothing else",
    async (role) => {
      const name = { scheduler: SCHEDULER, compute: COMPUTE, operator: OPERATOR, monitor: MONITOR };
      using client = tlsClient(agent.address, await as(name[role]));
      for (const { path } of methods) {
        const method = path.slice(path.lastIndexOf("/") + 1);
        const reason = await reasonOfEmptyCall(client, path);
        const refused = { method, refused: reason === "ROLE_REQUIRED" };
        expect(refused).toEqual({ method, refused: table.get(method)?.get(role) !== true });
      }
    },
  );

  it("a certificate that has none of the names in the file is PERMISSION_DENIED", async () => {
    const refused = await refusedWith(await as("DNS:somebody.example"));
    expect(refused).toMatchObject({
      code: status.PERMISSION_DENIED,
      reason: "UNKNOWN_CLIENT",
      metadata: { names: "DNS:somebody.example" },
    });
  });

  it("names are compared whole: URI is not DNS, and a name is not a part of one", async () => {
    const uri = SCHEDULER.slice("URI:".length);
    const names = [{ dns: ["x.compute-1.example"] }, { uri: [`${uri}/x`] }, { dns: ["*.example"] }];
    const tricky = { dns: ["a.example, DNS:compute-1.example"], uri: ["a:b, URI:c"] };
    for (const asked of [...names, tricky]) {
      const how = shows(files.authority.pem, await files.authority.sign(asked));
      expect(await refusedWith(how)).toMatchObject({ reason: "UNKNOWN_CLIENT" });
    }
  });

  it("health is for everybody, reflection for every role", async () => {
    for (const how of [shows(files.authority.pem), await as(COMPUTE)]) {
      const health = new HealthClient(agent.address, how, OWN);
      const answer = await new Promise((resolve) => {
        health.check({ service: "" }, (error, response) => resolve(error ?? response));
      });
      expect(answer).toEqual({ status: "SERVING" });
      health.close();
    }
    const reflected = async (how: ChannelCredentials) => {
      const client = new ServerReflectionClient(agent.address, how, OWN);
      const stream = client.serverReflectionInfo();
      stream.write({ host: "", messageRequest: { $case: "listServices", value: "" } });
      return await new Promise((resolve) => {
        stream.once("data", () => resolve("answered"));
        stream.once("error", (error: { code: number }) => resolve(error.code));
      }).finally(() => client.close());
    };
    expect(await reflected(await as(COMPUTE))).toBe("answered");
    expect(await reflected(shows(files.authority.pem))).toBe(status.UNAUTHENTICATED);
  });
});

/** Method to role to whether it may, from the table in docs/security.md. */
async function documentedRoles() {
  const text = await readFile(new URL("../../docs/security.md", import.meta.url), "utf8");
  const roles = ["scheduler", "compute", "operator", "monitor"];
  const table = new Map<string, Map<string, boolean>>();
  for (const line of text.split("\n").filter((each) => /^\| `[A-Z]/.test(each))) {
    const [, methods = "", ...cells] = line.split("|").map((cell) => cell.trim());
    for (const [, method = ""] of methods.matchAll(/`(\w+)`/g)) {
      if (cells.length < roles.length) continue;
      table.set(method, new Map(roles.map((role, at) => [role, cells[at] === "yes"])));
    }
  }
  return table;
}

/** The reason with which a call without any field is refused; undefined: it was answered. */
async function reasonOfEmptyCall(client: Client, path: string): Promise<string | undefined> {
  const bytes = (request: Buffer) => request;
  const answered = new Promise((resolve, reject) => {
    const streams = ["Watch", "StreamIostat"].some((name) => path.endsWith(`/${name}`));
    if (!streams) {
      client.makeUnaryRequest(path, bytes, bytes, Buffer.alloc(0), (error, answer) => {
        if (error === null) resolve(answer);
        else reject(error);
      });
      return;
    }
    const stream = client.makeServerStreamRequest(path, bytes, bytes, Buffer.alloc(0), {});
    stream.once("error", reject);
    stream.once("data", resolve);
  });
  return await refusal(answered).then(
    ({ reason }) => reason,
    () => undefined,
  );
}

describe("a compute node", () => {
  const ask = async (client: StorageNodeClient, id: string, hostNqn = "") => {
    const target = { $case: "lvolId", value: id } as const;
    return await call(client, client.getExport.bind(client), { target, hostNqn });
  };

  it("reads exports of its hosts, and of them no other host", async () => {
    using client = tlsClient(agent.address, await as(COMPUTE));
    const shared = await provision(agent, { allowedHostNqns: [HOST, OTHER_HOST] });
    const { export: shown } = await ask(client, idOf(shared), HOST);
    expect(shown).toMatchObject({ lvolId: idOf(shared), ready: true, allowedHostNqns: [HOST] });
    expect(shown?.hosts.map(({ nqn }) => nqn)).toEqual([HOST]);
    expect(JSON.stringify(shown)).not.toContain(OTHER_HOST);
    const target = { $case: "nqn", value: shared.status?.nqn ?? "" } as const;
    const byNqn = await call(client, client.getExport.bind(client), { target, hostNqn: "" });
    expect(byNqn.export?.lvolId).toBe(idOf(shared));
    const open = await provision(agent, { allowedHostNqns: [], allowAnyHost: true });
    expect((await ask(client, idOf(open))).export?.lvolId).toBe(idOf(open));
    await remove(agent, idOf(shared));
    await remove(agent, idOf(open));
  });

  it("learns nothing of another tenant's export, not even that it is there", async () => {
    using client = tlsClient(agent.address, await as(COMPUTE));
    const foreign = await provision(agent, { allowedHostNqns: [OTHER_HOST] });
    const [theirs, none] = [idOf(foreign), randomUUID()];
    const [refused, missing] = [
      await refusal(ask(client, theirs)),
      await refusal(ask(client, none)),
    ];
    expect(refused).toMatchObject({
      code: status.PERMISSION_DENIED,
      reason: "EXPORT_NOT_ALLOWED",
    });
    expect(refused.message).not.toContain(OTHER_HOST);
    const anonymous = ({ message, ...rest }: typeof refused) => ({
      ...rest,
      message: message.replace(/[0-9a-f-]{36}/, "ID"),
    });
    expect(anonymous(refused)).toEqual(anonymous(missing));
    expect(await refusal(ask(client, theirs, OTHER_HOST))).toMatchObject({
      reason: "EXPORT_NOT_ALLOWED",
    });
    await remove(agent, theirs);
    expect(anonymous(await refusal(ask(client, theirs)))).toEqual(anonymous(missing));
  });
});

describe("who asked", () => {
  it("is in the row, the event and the log line of a change", async () => {
    using client = tlsClient(agent.address, await as(SCHEDULER));
    const volume = await provision({ client });
    const id = idOf(volume);
    expect(agent.node.agent.rows.lvol(id)?.actor).toBe(SCHEDULER);
    const requested = async () =>
      (await eventsOf(agent, id)).find(({ reason }) => reason === "PROVISION_REQUESTED");
    await until("the event is written", async () => (await requested()) !== undefined);
    expect(await requested()).toMatchObject({ actor: SCHEDULER });
    const lines = logged.map((line): unknown => JSON.parse(line));
    expect(lines).toContainEqual(
      expect.objectContaining({ msg: "intent committed", id, actor: SCHEDULER }),
    );
    await remove(agent, id);
    const socket = agent.node.agent.rows.lvol(id)?.actor ?? "";
    expect(socket).toMatch(/^unix:.*agent\.sock$/);
  });

  it("is in the log line of a call that was refused", async () => {
    await refusedWith(await as(COMPUTE));
    const lines = logged.map((line): unknown => JSON.parse(line));
    expect(lines).toContainEqual(
      expect.objectContaining({
        msg: "call refused",
        actor: COMPUTE,
        reason: "ROLE_REQUIRED",
        peer: expect.stringMatching(/^127/),
        method: expect.stringMatching(/^storagenode/),
      }),
    );
  });
});

describe("without TLS", () => {
  it("whoever reaches the node is an operator, and health and log say so", async () => {
    await using database = await testDatabase();
    const lines: string[] = [];
    const log = pino({ level: "warn" }, { write: (line: string) => void lines.push(line) });
    const target = { socket: join(files.folder, "nobody"), fabricDisks: "" };
    const env = { STORAGE_NODE_LISTEN: "0.0.0.0:0", STORAGE_NODE_INSECURE: "1" };
    await using open = await startAgent({ url: database.url, target }, env, { log });
    const { components } = await call(open.client, open.client.getHealth.bind(open.client), {});
    expect(components.find(({ name }) => name === "access")).toMatchObject({
      ok: false,
      reason: "no TLS, and whoever connects is an operator: STORAGE_NODE_LISTEN 0.0.0.0:0",
    });
    expect(lines.join("")).toContain("served without TLS, to whoever connects");
  });
});
