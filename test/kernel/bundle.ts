// The agent and the guest's service as bundles: from its sources the agent takes a minute to start on an
// emulated processor.
import { cp } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { rolldown } from "rolldown";

const PROJECT = fileURLToPath(new URL("../../", import.meta.url));

/** Path of the agent's program in the guest. */
export const AGENT_PROGRAM = "/opt/storage-node/src/bundle/main.js";

/**
 * Puts both below /opt of the guest's root folder. The agent's files lie two folders below its
 * migrations, as its sources do.
 */
export async function bundlePrograms(root: string): Promise<void> {
  const agent = join(root, "opt/storage-node");
  await Promise.all([
    bundle("src/main.ts", join(root, AGENT_PROGRAM, "..")),
    bundle("test/kernel/guest/service.ts", join(root, "opt/guest")),
    cp(join(PROJECT, "migrations"), join(agent, "migrations"), { recursive: true }),
    cp(join(PROJECT, "src/gen/descriptor.binpb"), join(agent, "src/gen/descriptor.binpb")),
  ]);
}

async function bundle(entry: string, folder: string): Promise<void> {
  await using made = await rolldown({
    input: join(PROJECT, entry),
    platform: "node",
    // What is optional and not installed stays an import that fails when it is used.
    external: ["pg-native"],
    logLevel: "silent",
  });
  await made.write({ dir: folder, format: "esm", entryFileNames: "[name].js" });
}
