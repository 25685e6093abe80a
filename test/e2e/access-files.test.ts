// The files of who may call are replaced while the agent runs, and clients that take more than is theirs.
import { status } from "@grpc/grpc-js";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { connect as connectTls } from "node:tls";
import { writeFile } from "node:fs/promises";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { HealthClient } from "../../src/gen/grpc/health/v1/health.ts";
import { CLIENT_CONNECTIONS, CLIENT_STREAMS, HANDSHAKES } from "../../src/limits.ts";
import {
  accessFiles,
  CLIENTS,
  namesOf,
  OPERATOR,
  OWN,
  SCHEDULER,
  shows,
  tlsClient,
  type AccessFiles,
  type TlsClient,
} from "../support/access.ts";
import { call, refusal, startAgent, until, type TestAgent } from "../support/agent.ts";
import { Authority } from "../support/certificates.ts";
import { testDatabase } from "../support/database.ts";

const stack = new AsyncDisposableStack();
let files: AccessFiles;
let agent: TestAgent;

beforeAll(async () => {
  const database = stack.use(await testDatabase());
  files = stack.use(await accessFiles());
  const target = { socket: join(files.folder, "nobody"), fabricDisks: "" };
  const env = { ...files.env, STORAGE_NODE_SOCKET: join(files.folder, "agent.sock") };
  const timing = { accessLookMs: 20 };
  agent = stack.use(await startAgent({ url: database.url, target, timing }, env));
  const { components } = agent.node.agent;
  await until("rows are read", () => components().some(({ name, ok }) => name === "lease" && ok));
});

/** Every test begins with the same files. */
beforeEach(async () => {
  await replaced({});
});

afterAll(async () => {
  await stack.disposeAsync();
});

async function replaced(change: Parameters<AccessFiles["replace"]>[0]): Promise<void> {
  const server = await files.authority.sign({ dns: ["localhost"] });
  const clients = JSON.stringify(CLIENTS);
  const all = { server, ca: files.authority.pem, clients, ...change };
  await files.replace(all);
  if (all.server.cert === server.cert) {
    await until("the node shows its new certificate", async () => (await shown()) === server.cert);
  }
}

/** The certificate that a new connection is shown, as PEM. */
async function shown(): Promise<string> {
  const port = Number(agent.address.split(":").at(-1));
  const socket = connectTls({ port, rejectUnauthorized: false, ALPNProtocols: ["h2"] });
  await once(socket, "secureConnect");
  const pem = socket.getPeerX509Certificate()?.toString() ?? "";
  socket.destroy();
  return pem;
}

async function clientOf(name: string): Promise<TlsClient> {
  return tlsClient(agent.address, shows(files.authority.pem, await files.certificate(name)));
}

/** The cheapest call that needs a role. */
const listDisks = async (client: TlsClient) =>
  await call(client, client.listDisks.bind(client), { pageSize: 1, pageToken: "" });

const health = async (client: TlsClient) => await call(client, client.getHealth.bind(client), {});

const accessOf = async () => {
  const { components } = await call(agent.client, agent.client.getHealth.bind(agent.client), {});
  return components.find(({ name }) => name === "access");
};

describe("files that are replaced", () => {
  it("under load fail none of 10,000 calls, on connections old and new", async () => {
    const before = await shown();
    const pair = await files.certificate(SCHEDULER);
    const how = shows(files.authority.pem, pair);
    const old = Array.from({ length: 4 }, () => tlsClient(agent.address, how));
    let [left, failed] = [10_000, 0];
    const work = async (client: TlsClient | undefined) => {
      while (left > 0) {
        left -= 1;
        using own = client === undefined ? tlsClient(agent.address, how) : undefined;
        const asked = client ?? own;
        if (asked !== undefined) await listDisks(asked).catch(() => (failed += 1));
      }
    };
    const seen = new Set([before]);
    const replacing = (async () => {
      for (const callsLeft of [9_000, 7_000, 5_000, 3_000, 1_000]) {
        await until("some calls are made", () => left <= callsLeft);
        await replaced({});
        seen.add(await shown());
      }
    })();
    const workers = [...old, ...old, ...old].map((client) => work(client));
    await Promise.all([...workers, work(undefined), replacing]);
    for (const client of old) client.close();
    expect(failed).toBe(0);
    expect(seen.size).toBe(6);
  }, 180_000);

  it("with another CA: its clients may call, those of the one that is gone may not", async () => {
    using before = await clientOf(SCHEDULER);
    await health(before);
    const next = await Authority.root("next");
    const pair = await next.sign(namesOf(SCHEDULER));
    await replaced({ ca: `${files.authority.pem}\n${next.pem}` });
    using after = tlsClient(agent.address, shows(files.authority.pem, pair));
    await health(after);
    await health(before);
    await replaced({ ca: next.pem });
    expect(await refusal(health(before))).toMatchObject({
      code: status.UNAUTHENTICATED,
      reason: "CERTIFICATE_INVALID",
    });
    await health(after);
  });

  it("that stay as they are: a certificate that expires ends streams and connections", async () => {
    const SHORT_MS = 4_000;
    const notAfter = new Date(Date.now() + SHORT_MS);
    const pair = await files.authority.sign(namesOf(OPERATOR), { notAfter });
    using client = tlsClient(agent.address, shows(files.authority.pem, pair));
    await health(client);
    const stream = client.watch({
      fromRevision: 0n,
      bookmarkInterval: { seconds: 0n, nanos: 1e8 },
    });
    // A call that is refused ends the connection for new calls, and must not hide the stream.
    const asking = (async () => {
      while (
        !(await health(client).then(
          () => false,
          () => true,
        ))
      );
    })();
    const ended = refusal(
      (async () => {
        for await (const message of stream) expect(message).toBeTypeOf("object");
      })(),
    );
    await asking;
    expect(await ended).toMatchObject({
      code: status.UNAUTHENTICATED,
      reason: "CERTIFICATE_INVALID",
      metadata: { error: "CERT_HAS_EXPIRED" },
    });
    expect(await refusal(health(client))).toMatchObject({ reason: "CERTIFICATE_INVALID" });
  });

  it("take away a role also from streams that are open, and give it to connections", async () => {
    using client = await clientOf(OPERATOR);
    const stream = client.watch({
      fromRevision: 0n,
      bookmarkInterval: { seconds: 0n, nanos: 1e8 },
    });
    const ended = refusal(
      (async () => {
        for await (const message of stream) expect(message).toBeTypeOf("object");
      })(),
    );
    await once(stream, "metadata");
    const others = CLIENTS.filter(({ san }) => san !== OPERATOR);
    await replaced({ clients: JSON.stringify(others) });
    expect(await ended).toMatchObject({
      code: status.PERMISSION_DENIED,
      reason: "UNKNOWN_CLIENT",
    });
    expect(await refusal(health(client))).toMatchObject({ reason: "UNKNOWN_CLIENT" });
    await replaced({ clients: JSON.stringify([...others, { san: OPERATOR, roles: ["monitor"] }]) });
    await health(client);
  });

  it.each<[string, () => Promise<Parameters<AccessFiles["replace"]>[0]>, RegExp]>([
    [
      "the key of another certificate",
      async () => {
        const [one, other] = [await files.certificate("DNS:a.b"), await files.certificate("DNS:c")];
        return { server: { cert: one.cert, key: other.key } };
      },
      /tls\.key is not the key of .*tls\.crt: /,
    ],
    ["no certificate", async () => ({ server: { cert: "", key: "" } }), /tls\.crt has no certifi/],
    ["no CA", async () => ({ ca: "-----BEGIN" }), /ca\.crt has no certificate/],
    ["no JSON", async () => ({ clients: "[" }), /clients\.json is not JSON: /],
    [
      "an unknown role and an NQN of no host",
      async () => ({
        clients: JSON.stringify([
          { san: "DNS:a", roles: ["admin"] },
          { san: "DNS:b", roles: ["compute"], host_nqns: ["host"] },
        ]),
      }),
      /\[0\.roles\.0\] must be one of scheduler.*; \[1\.host_nqns\.0\] is not an NQN/,
    ],
    [
      "a name twice",
      async () => ({
        clients: JSON.stringify([
          { san: "DNS:a", roles: ["monitor"] },
          { san: "DNS:A", roles: ["operator"] },
        ]),
      }),
      /names DNS:A twice/,
    ],
    ["nobody", async () => ({ clients: "[]" }), /nobody could call/],
  ])("with %s leave those before in force, and health says so", async (_what, broken, reason) => {
    using client = await clientOf(SCHEDULER);
    const before = await shown();
    await files.replace(await broken());
    await until("health says so", async () => (await accessOf())?.ok === false);
    expect((await accessOf())?.reason).toMatch(reason);
    expect((await accessOf())?.reason).toContain("stays in force");
    expect(await shown()).toBe(before);
    await health(client);
    using another = await clientOf(SCHEDULER);
    await health(another);
    await replaced({});
    await until("health is well again", async () => (await accessOf())?.ok === true);
  });

  it("with a certificate that is about to expire: health says when", async () => {
    const DAY_MS = 86_400_000;
    const notBefore = new Date(Date.now() - 100 * DAY_MS);
    const notAfter = new Date(Date.now() + DAY_MS);
    const server = await files.authority.sign({ dns: ["localhost"] }, { notBefore, notAfter });
    await files.replace({ server });
    await until("health says so", async () => (await accessOf())?.ok === false);
    expect((await accessOf())?.reason).toMatch(/certificate of this node expires at 20/);
  });

  it("one after another count together", async () => {
    using client = await clientOf(SCHEDULER);
    const server = await files.authority.sign({ dns: ["localhost"] });
    // In place, through the link, as a script of an operator may do.
    await writeFile(files.paths.cert, server.cert);
    await writeFile(files.paths.key, server.key);
    await until("the node shows its new certificate", async () => (await shown()) === server.cert);
    expect(await health(client)).toHaveProperty("components");
  });
});

describe("clients that take too much", () => {
  const connected = async () => {
    const [host = "", port = ""] = agent.address.split(":");
    const socket = connect({ host, port: Number(port) });
    socket.on("error", () => undefined);
    await once(socket, "connect");
    return socket;
  };

  it("1,000 handshakes that never end keep nobody out, and are dropped", async () => {
    const sockets: Socket[] = [];
    for (let made = 0; made < 1_000; made += 100) {
      sockets.push(...(await Promise.all(Array.from({ length: 100 }, connected))));
      using client = await clientOf(SCHEDULER);
      await health(client);
    }
    // The beginning of a TLS record that never ends.
    for (const socket of sockets) socket.write(Buffer.from([0x16, 0x03, 0x01, 0x02, 0x00]));
    using client = await clientOf(SCHEDULER);
    const open = () => sockets.filter(({ closed }) => !closed).length;
    await until("all but those that may be under way are dropped", () => open() <= HANDSHAKES);
    expect(await health(client)).toHaveProperty("components");
    for (const socket of sockets) socket.destroy();
  });

  it("more connections than one client may have: its oldest idle one ends", async () => {
    const pair = await files.certificate(SCHEDULER);
    const how = { key: pair.key, cert: pair.cert, rejectUnauthorized: false };
    const port = Number(agent.address.split(":").at(-1));
    using busy = tlsClient(agent.address, shows(files.authority.pem, pair));
    const stream = busy.watch({ fromRevision: 0n, bookmarkInterval: { seconds: 0n, nanos: 1e8 } });
    await once(stream, "metadata");
    const sockets = [];
    for (let made = 0; made < CLIENT_CONNECTIONS; made += 1) {
      const socket = connectTls({ port, ...how, ALPNProtocols: ["h2"] });
      socket.on("error", () => undefined).resume();
      await once(socket, "secureConnect");
      sockets.push(socket);
    }
    const [first, ...others] = sockets;
    await until("the oldest idle connection is ended", () => first?.closed === true);
    expect(others.filter(({ closed }) => closed)).toEqual([]);
    const more = once(stream, "data");
    await more;
    stream.on("error", () => undefined);
    stream.cancel();
    using another = await clientOf(OPERATOR);
    await health(another);
    for (const socket of sockets) socket.destroy();
  });

  it("more streams than one client may have are refused, those of others are not", async () => {
    const how = shows(files.authority.pem);
    const PER_CONNECTION = 50;
    const watchers = Array.from(
      { length: CLIENT_STREAMS / PER_CONNECTION },
      () => new HealthClient(agent.address, how, OWN),
    );
    const watches = watchers.flatMap((watcher) =>
      Array.from({ length: PER_CONNECTION }, async () => {
        const stream = watcher.watch({ service: "" });
        stream.on("error", () => undefined);
        return (await once(stream, "data")).length;
      }),
    );
    expect(await Promise.all(watches)).toHaveLength(CLIENT_STREAMS);
    const other = new HealthClient(agent.address, how, OWN);
    const refused = refusal(
      (async () => {
        for await (const message of other.watch({ service: "" })) expect(message).toBe("nothing");
      })(),
    );
    expect(await refused).toMatchObject({ reason: "OVERLOADED" });
    using client = await clientOf(SCHEDULER);
    const stream = client.watch({ fromRevision: 0n, bookmarkInterval: undefined });
    await once(stream, "metadata");
    stream.on("error", () => undefined);
    stream.cancel();
    for (const watcher of watchers) watcher.close();
    other.close();
  });
});
