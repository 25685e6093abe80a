// Records the requests that an agent sends to its target through a proxy.
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
  /** Length in bytes without the digits of its id, which increase with time. */
  readonly bytes: number;
};

export class OverheardRequests {
  readonly #requests: Request[] = [];

  readonly overhear: Overhear = () => {
    let unread = "";
    return {
      asked: (bytes) => {
        // The agent ends each request with a newline; JSON text contains none.
        const lines = (unread + bytes.toString()).split("\n");
        unread = lines.pop() ?? "";
        for (const line of lines) this.#requests.push(requestOf(line));
      },
      answered: () => {},
    };
  };

  /** Returns and removes the requests recorded so far, in order. */
  take(): readonly Request[] {
    return this.#requests.splice(0);
  }
}

function requestOf(line: string): Request {
  const { id, method, params } = request.parse(JSON.parse(line));
  return { method, params, bytes: Buffer.byteLength(line) - String(id).length };
}
