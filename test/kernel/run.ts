// npm run test:kernel: the tests that need a real kernel, in emulated machines.
//   --missing      print the Debian packages that are missing, and run nothing; exit code 1 if there are any
//   --if-possible  where the tests cannot run, say so and exit with 0
// Everything else is passed on to vitest.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { missingPackages } from "./packages.ts";
import { guestKernel } from "./kernel-package.ts";
import { kernelCache } from "./kernel-cache.ts";

const VITEST = fileURLToPath(new URL("../../node_modules/vitest/vitest.mjs", import.meta.url));
const ROOT = fileURLToPath(new URL("../../", import.meta.url));

process.exitCode = await main(process.argv.slice(2));

async function main(args: readonly string[]): Promise<number> {
  if (args.includes("--missing")) {
    const missing = missingPackages();
    process.stdout.write(missing.map((name) => `${name}\n`).join(""));
    return missing.length === 0 ? 0 : 1;
  }
  const why = await obstacle();
  if (why !== undefined) {
    const isFine = args.includes("--if-possible");
    process.stderr.write(`${isFine ? "SKIPPED: " : ""}${why} (docs/contributing.md)\n`);
    return isFine ? 0 : 1;
  }
  const rest = args.filter((arg) => arg !== "--if-possible");
  const config = ["--config", "test/kernel/vitest.config.ts", "--root", ROOT];
  const child = spawn(process.execPath, [VITEST, "run", ...config, ...rest], { stdio: "inherit" });
  const [code]: unknown[] = await once(child, "exit");
  return typeof code === "number" ? code : 1;
}

/** Why the tests cannot run here; undefined: they can. */
async function obstacle(): Promise<string | undefined> {
  if (process.arch !== "x64") return "the kernel tests emulate x86-64 machines on x86-64 only";
  const missing = missingPackages();
  if (missing.length > 0) return `the kernel tests need the packages ${missing.join(", ")}`;
  try {
    await guestKernel(kernelCache());
    return undefined;
  } catch (error) {
    return `the kernel tests have no kernel: ${error instanceof Error ? error.message : String(error)}`;
  }
}
