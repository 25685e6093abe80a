// Runs a program of the system to its end.
import { spawn } from "node:child_process";
import { once } from "node:events";

/** Debian keeps programs for root where a user's PATH does not look. */
export const TOOL_PATH = `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin`;

export type ToolOptions = { readonly cwd?: string; readonly input?: string };

/** What the program wrote to stdout; throws with its stderr if it fails. */
export async function runTool(
  program: string,
  args: readonly string[],
  { cwd, input = "" }: ToolOptions = {},
): Promise<string> {
  const child = spawn(program, args, {
    ...(cwd !== undefined && { cwd }),
    env: { ...process.env, PATH: TOOL_PATH, LC_ALL: "C" },
    stdio: ["pipe", "pipe", "pipe"],
  });
  const said = { out: "", err: "" };
  child.stdout.setEncoding("utf8").on("data", (text: string) => (said.out += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (said.err += text));
  // A program that ends without reading its input is judged by its exit code.
  child.stdin.on("error", () => {});
  child.stdin.end(input);
  const [code]: unknown[] = await once(child, "close");
  if (code !== 0) throw new Error(`${program} ${args.join(" ")} failed: ${said.err || said.out}`);
  return said.out;
}
