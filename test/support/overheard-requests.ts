// The requests that an agent sends to its target, as a proxy between the two hears them.
import { z } from "zod";
import type { Overhear } from "./socket-proxy.ts";

const request = z.looseObject({
  id: z.number(),
  method: z.string(),
  params: z.record(z.string(), z.unknown()).default({}),
});

export type Request = {
  readonly method: string;
  readonly params: Readonly<Record<string, unknown>>;
  /** Without the digits of its id, which grow with time. */
  readonly bytes: number;
};

export class OverheardRequests {
  readonly #requests: Request[] = [];

  readonly overhear: Overhear = () => {
    let unread = "";
    return {
      asked: (bytes) => {
        // JSON has no line ends of its own; the agent ends each request with one.
        const lines = (unread + bytes.toString()).split("\n");
        unread = lines.pop() ?? "";
        for (const line of lines) this.#requests.push(requestOf(line));
      },
      answered: () => {},
    };
  };

  /** In order, since this was last asked. */
  take(): readonly Request[] {
    return this.#requests.splice(0);
  }
}

function requestOf(line: string): Request {
  const { id, method, params } = request.parse(JSON.parse(line));
  return { method, params, bytes: Buffer.byteLength(line) - String(id).length };
}
