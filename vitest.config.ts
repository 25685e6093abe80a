import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: ["test/support/postgres-global.ts"],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: "forks",
    // Tests wait for processes more than they compute.
    maxWorkers: 4,
    // Of the tests of a file that says so.
    maxConcurrency: 12,
    reporters: ["default"],
  },
});
