// An agent that leads its node and has no target: for what is decided before a target is asked.
import { join } from "node:path";
import { startAgent, until, type TestAgent } from "./agent.ts";
import { testDatabase } from "./database.ts";
import { temporaryFolder } from "./temporary-folder.ts";

export async function agentWithoutTarget(owner: AsyncDisposableStack): Promise<TestAgent> {
  const database = owner.use(await testDatabase());
  const folder = owner.use(await temporaryFolder());
  const target = { socket: join(folder.path, "nobody"), fabricDisks: "" };
  const started = owner.use(await startAgent({ url: database.url, target }));
  await until("the agent has the lease of its node", () => {
    return started.node.agent.components().some(({ name, ok }) => name === "lease" && ok);
  });
  return started;
}
