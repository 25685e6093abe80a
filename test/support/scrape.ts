// Reads the metrics of an agent over HTTP, as Prometheus does.
import type { TestAgent } from "./agent.ts";

export type Samples = ReadonlyMap<string, number>;

/** The samples of one scrape: `name{labels}` to its value. */
export async function scrape({ node }: Pick<TestAgent, "node">): Promise<Samples> {
  const response = await fetch(`http://${node.httpAddress}/metrics`);
  const text = await response.text();
  const samples = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return new Map(
    samples.map((line) => {
      const space = line.lastIndexOf(" ");
      return [line.slice(0, space), Number(line.slice(space + 1))];
    }),
  );
}

/** The sum of all samples with this name and these labels. */
export function valueOf(
  samples: Samples,
  name: string,
  labels: Readonly<Record<string, string>> = {},
): number {
  const parts = Object.entries(labels).map(([key, value]) => `${key}="${value}"`);
  return [...samples]
    .filter(([key]) => key.split("{", 1)[0] === name && parts.every((part) => key.includes(part)))
    .reduce((sum, [, value]) => sum + value, 0);
}
