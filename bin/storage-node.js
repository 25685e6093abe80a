#!/usr/bin/env node
// The command `storage-node`: runs src/main.ts under Node 24.
import { fileURLToPath } from "node:url";
import { runUnderNode24 } from "./node24.js";

runUnderNode24([
  "--disable-warning=ExperimentalWarning",
  fileURLToPath(new URL("../src/main.ts", import.meta.url)),
  ...process.argv.slice(2),
]);
