// The HTTP port without TLS: how many connections it has, and who gives way.
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { pino } from "pino";
import { expect, it } from "vitest";
import { startHttp } from "../../src/api/http.ts";
import { CLIENT_CONNECTIONS } from "../../src/limits.ts";
import { until } from "../support/agent.ts";

const GET_METRICS = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";

/** Serves metrics once `scraped` is resolved with them. */
async function heldHttp() {
  const scraped = Promise.withResolvers<string>();
  let scrapes = 0;
  const http = await startHttp({
    listen: "127.0.0.1:0",
    access: undefined,
    log: pino({ level: "silent" }),
    scrape: () => {
      scrapes += 1;
      return scraped.promise;
    },
    notReady: () => [],
  });
  const port = Number(http.address.slice(http.address.lastIndexOf(":") + 1));
  return {
    port,
    scraped,
    scrapes: () => scrapes,
    [Symbol.asyncDispose]: () => http[Symbol.asyncDispose](),
  };
}

it("has a limit of connections, and the oldest one without a request gives way to another", async () => {
  await using http = await heldHttp();
  const { port, scraped } = http;
  const opened: Socket[] = [];
  const open = async () => {
    const socket = connect({ host: "127.0.0.1", port });
    socket.on("error", () => undefined);
    opened.push(socket);
    await once(socket, "connect");
    return socket;
  };
  // The oldest of all waits for its answer.
  const asking = await open();
  let said = "";
  asking.on("data", (bytes: Buffer) => (said += bytes.toString()));
  asking.write(GET_METRICS);
  await until("it is being answered", () => http.scrapes() === 1);
  const idle = await open();
  const gone = once(idle, "close");
  while (opened.length < CLIENT_CONNECTIONS) await open();
  expect(opened.filter(({ closed }) => closed)).toEqual([]);
  const another = await open();
  await gone;
  expect(opened.filter(({ closed }) => closed)).toEqual([idle]);
  another.write("GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n");
  const [answer] = await once(another, "data");
  expect(String(answer)).toMatch(/^HTTP\/1.1 200 OK/);
  scraped.resolve("storagenode_up 1\n");
  await until("the oldest is answered", () => said.includes("storagenode_up 1"));
  for (const socket of opened) socket.destroy();
});

it("refuses another connection while all have requests", async () => {
  await using http = await heldHttp();
  const { port, scraped } = http;
  const opened = Array.from({ length: CLIENT_CONNECTIONS }, () => {
    const socket = connect({ host: "127.0.0.1", port });
    socket.on("error", () => undefined);
    socket.write(GET_METRICS);
    return socket;
  });
  await until("all are being answered", () => http.scrapes() === CLIENT_CONNECTIONS);
  const refused = connect({ host: "127.0.0.1", port });
  refused.on("error", () => undefined);
  await once(refused, "close");
  expect(opened.filter(({ closed }) => closed)).toEqual([]);
  scraped.resolve("");
  for (const socket of opened) socket.destroy();
});
