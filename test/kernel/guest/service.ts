// Runs in the guest: executes the shell scripts that are posted to it, one after another or side by
// side. The answer is JSON, see script-answer.ts.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer, type IncomingMessage } from "node:http";
import { text } from "node:stream/consumers";
import { READY_LINE, SERVICE_PORT, type ScriptAnswer } from "./script-answer.ts";

const server = createServer((request, response) => {
  void answer(request).then((body) => response.end(JSON.stringify(body)));
});
server.listen(SERVICE_PORT, "0.0.0.0");
await once(server, "listening");
process.stdout.write(`${READY_LINE}\n`);

async function answer(request: IncomingMessage): Promise<ScriptAnswer> {
  const script = await text(request);
  const child = spawn("/bin/sh", ["-c", script], { stdio: ["ignore", "pipe", "pipe"] });
  const [[code], stdout, stderr]: readonly [readonly unknown[], string, string] = await Promise.all(
    [once(child, "close"), text(child.stdout), text(child.stderr)],
  );
  return { code: typeof code === "number" ? code : -1, stdout, stderr };
}
