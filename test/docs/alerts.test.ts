// docs/alerts.yml against the metrics that docs/observability.md lists and that an agent serves.
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, it } from "vitest";
import { readConfig } from "../../src/config.ts";
import { startTelemetry } from "../../src/telemetry/telemetry.ts";
import { startAgent, until, type TestAgent } from "../support/agent.ts";
import { testDatabase } from "../support/database.ts";
import { scrape } from "../support/scrape.ts";
import { startTarget } from "../support/target.ts";

const documents = fileURLToPath(new URL("../../docs/", import.meta.url));
const rules = await readFile(`${documents}alerts.yml`, "utf8");
const metrics = await readFile(`${documents}observability.md`, "utf8");

/** Metrics in expressions, with their labels and values. */
const used = [...rules.matchAll(/^ +expr: (.*)$/gm)].flatMap(([, expression = ""]) =>
  [...expression.matchAll(/(storagenode_\w+)(?:\{(\w+)=~?"([^"]*)"\})?/g)].map(
    ([, name = "", label, value]) => ({ name, label, values: value?.split("|") ?? [] }),
  ),
);

const stack = new AsyncDisposableStack();
let agent: TestAgent;

beforeAll(async () => {
  const { telemetry: config } = readConfig({ DATABASE_URL: "postgresql:///x" });
  const node = { nodeId: "node-1", fleet: "test", version: "0" };
  const telemetry = stack.use(startTelemetry(config, node));
  const database = stack.use(await testDatabase());
  const target = stack.use(await startTarget({ disks: 1 }));
  const parts = { url: database.url, target, timing: { healthMs: 100 } };
  agent = stack.use(await startAgent(parts, {}, { telemetry }));
  await agent.ready();
  await until("its disk was looked at", () =>
    [...agent.node.agent.rows.disks()].every(({ healthTime }) => healthTime !== undefined),
  );
});

afterAll(async () => await stack.disposeAsync());

it("every rule is about metrics that are documented, and served with the labels it names", async () => {
  expect(used.length).toBeGreaterThan(10);
  const served = [...(await scrape(agent)).keys()];
  const missing = used.flatMap(({ name, label, values }) => {
    const series = served.filter((key) => key === name || key.startsWith(`${name}{`));
    const wanted = values.length === 0 ? [undefined] : values;
    const lacks = wanted.filter(
      (value) => !series.some((key) => value === undefined || key.includes(`${label}="${value}"`)),
    );
    return [
      ...lacks.map((value) => `${name} ${value ?? ""}`),
      ...(metrics.includes(name) ? [] : [name]),
    ];
  });
  expect(missing).toEqual([]);
});
