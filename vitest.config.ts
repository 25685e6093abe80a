import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";
import { LongFirst } from "./test/support/long-first.ts";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: ["test/support/postgres-global.ts"],
    // Hundreds of agents and targets are started: what they are compiled to is kept.
    env: {
      NODE_COMPILE_CACHE: fileURLToPath(new URL("node_modules/.cache/node", import.meta.url)),
    },
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: "forks",
    // One real target serves all suites: they must not change it side by side.
    fileParallelism: process.env["STORAGE_NODE_TEST_SPDK_SOCKET"] === undefined,
    // Tests wait for processes more than they compute.
    maxWorkers: 4,
    sequence: { sequencer: LongFirst },
    // Of the tests of a file that says so.
    maxConcurrency: 12,
    reporters: ["default"],
  },
});
