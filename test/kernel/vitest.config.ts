import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/kernel/*.kernel.ts"],
    globalSetup: ["test/support/postgres-global.ts", "test/kernel/guest-global.ts"],
    // An emulated processor is slow, and slower still beside other work.
    env: { UNTIL_MS: "120000" },
    testTimeout: 300_000,
    hookTimeout: 420_000,
    pool: "forks",
    // A machine has two emulated processors and 2 GiB.
    fileParallelism: false,
    reporters: ["verbose"],
  },
});
