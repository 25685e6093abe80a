// Throughput of GetExport, the call of a compute node before it connects, with many callers at
// once, compared with a bare server that answers the same number of bytes without decoding
// requests.
import {
  GetExportResponse,
  type StorageNodeClient,
} from "../../src/gen/storagenode/v1/storage_node.ts";
import { call } from "../support/agent.ts";
import { HOST } from "../support/volumes.ts";
import { startEcho } from "./echo.ts";
import { inTurns, spread } from "./measure.ts";
import { lineOf, type Row } from "./row.ts";

const CONCURRENCY = 64;

export const getExportRow: Row = {
  name: "get-export",
  async run({ sizes, pairs, warmUps, startNode }) {
    await using node = await startNode();
    await node.fillTo(sizes.volumes);
    const ids = (await node.volumes()).map(({ id }) => id);
    const answer = await getExport(node.agent.client, ids[0] ?? "");
    await using echo = await startEcho({ GetExport: GetExportResponse.encode(answer).finish() });
    const cpu: { ours: number[]; limit: number[] } = { ours: [], limit: [] };
    const side =
      (of: { client: StorageNodeClient; cpuMs: () => number }, used: number[]) => async () => {
        const before = of.cpuMs();
        const { calls, ms } = await load(of.client, ids, sizes.readSeconds * 1_000);
        used.push((1_000 * (of.cpuMs() - before)) / calls);
        return (1_000 * calls) / ms;
      };
    const taken = await inTurns({
      pairs,
      warmUps,
      ours: side(node.agent, cpu.ours),
      limit: side(echo, cpu.limit),
    });
    return {
      lines: [
        lineOf(taken, {
          what: `GetExport, ${CONCURRENCY} at a time`,
          unit: "per s",
          goal: { kind: "at least", value: 0.7 },
        }),
        {
          what: "GetExport, server's CPU time per call",
          unit: "us",
          ours: spread(cpu.ours.slice(warmUps)),
          limit: spread(cpu.limit.slice(warmUps)),
          ratio: spread(
            cpu.ours
              .slice(warmUps)
              .map((us, index) => us / (cpu.limit[warmUps + index] ?? Number.NaN)),
          ),
        },
      ],
      notes: ["client and server share the cores: CPU time per call is the more stable figure"],
      raw: { pairs: taken, cpuMicroseconds: cpu },
    };
  },
};

async function load(
  client: StorageNodeClient,
  ids: readonly string[],
  forMs: number,
): Promise<{ readonly calls: number; readonly ms: number }> {
  const startMs = performance.now();
  let calls = 0;
  const worker = async () => {
    while (performance.now() - startMs < forMs) {
      await getExport(client, ids[calls % ids.length] ?? "");
      calls += 1;
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, worker));
  return { calls, ms: performance.now() - startMs };
}

function getExport(client: StorageNodeClient, id: string): Promise<GetExportResponse> {
  const request = { target: { $case: "lvolId" as const, value: id }, hostNqn: HOST };
  return call(client, client.getExport.bind(client), request);
}
