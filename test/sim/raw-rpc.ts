// Requests to a target without the typed client: exact params, exact answers.
import { once } from "node:events";
import { connect } from "node:net";
import { z } from "zod";

/** Of `expect.poll`: bounds the wait for something that happens soon. */
export const PATIENT = { interval: 10, timeout: 20_000 };

const reply = z.object({
  result: z.unknown().optional(),
  error: z.object({ code: z.number(), message: z.string() }).optional(),
});

export type Reply = z.infer<typeof reply>;

/** Sends one request on a connection of its own; undefined: the target closed it unanswered. */
export async function ask(
  socketPath: string,
  method: string,
  params?: object,
): Promise<Reply | undefined> {
  const socket = connect(socketPath);
  await once(socket, "connect");
  socket.write(JSON.stringify({ jsonrpc: "2.0", id: 1, method, params }));
  let text = "";
  for await (const chunk of socket.setEncoding("utf8")) {
    text += String(chunk);
    if (text.endsWith("\n")) break;
  }
  socket.destroy();
  return text === "" ? undefined : reply.parse(JSON.parse(text));
}

/** The result of a request; throws what the target refused. */
export async function call(socketPath: string, method: string, params?: object): Promise<unknown> {
  const answer = await ask(socketPath, method, params);
  if (answer === undefined) throw new Error(`${method}: no answer`);
  if (answer.error !== undefined) throw new Error(`${method}: ${answer.error.message}`);
  return answer.result;
}
