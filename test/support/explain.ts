// Calls Explain as a client does, and runs commands of the program in this process.
import { run } from "../../src/cli/cli.ts";
import type { ExplainResponse } from "../../src/gen/storagenode/v1/storage_node.ts";
import { call, type TestAgent } from "./agent.ts";

type Client = Pick<TestAgent, "client">;

export async function explainVolume({ client }: Client, id: string): Promise<ExplainResponse> {
  const target = { $case: "lvolId", value: id } as const;
  return await call(client, client.explain.bind(client), { target });
}

export async function explainDisk({ client }: Client, id: string): Promise<ExplainResponse> {
  const target = { $case: "diskId", value: id } as const;
  return await call(client, client.explain.bind(client), { target });
}

/** The answers of the checks in order, one letter each: y (yes), N (no) or ? (unknown). */
export function answers({ checks }: ExplainResponse): string {
  const letters: Readonly<Record<string, string>> = {
    CHECK_ANSWER_YES: "y",
    CHECK_ANSWER_NO: "N",
    CHECK_ANSWER_UNKNOWN: "?",
  };
  return checks.map(({ answer }) => letters[answer] ?? "-").join("");
}

export type Said = { readonly code: number; readonly out: string; readonly err: string };

/** Runs a command of the program in this process; returns exit code and output. */
export async function storageNode(
  args: readonly string[],
  io: {
    readonly env?: Readonly<Record<string, string>>;
    readonly signal?: AbortSignal;
    readonly onOutput?: (text: string) => void;
    readonly columns?: number;
    /** What the user types when asked; undefined: there is no terminal. */
    readonly typed?: string;
  } = {},
): Promise<Said> {
  let [out, err] = ["", ""];
  const { env = {}, signal = new AbortController().signal, onOutput, columns, typed } = io;
  const code = await run(args, {
    env,
    signal,
    stdout: (text) => {
      out += `${text}\n`;
      onOutput?.(text);
    },
    stderr: (text) => (err += `${text}\n`),
    columns: () => columns,
    ask: typed === undefined ? undefined : () => Promise.resolve(typed),
  });
  return { code, out, err };
}
