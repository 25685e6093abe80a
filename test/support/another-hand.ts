// Somebody else who changes the target behind the agent's back.
import { spdkClient, type SpdkClient } from "../../src/spdk/client.ts";
import { SpdkConnection } from "../../src/spdk/connection.ts";
import { until } from "./agent.ts";
import type { CrashScenario } from "./crash-scenario.ts";

export type AnotherHand = AsyncDisposable & { readonly spdk: SpdkClient };

export async function anotherHand({ target }: CrashScenario): Promise<AnotherHand> {
  const connection = new SpdkConnection({ path: target.socket, mayMutate: () => true });
  await until("somebody else is connected to the target", () => connection.connected);
  return {
    spdk: spdkClient(connection),
    [Symbol.asyncDispose]: () => connection[Symbol.asyncDispose](),
  };
}
