// Runs the static checks of the project:  npm run check [STEP...]
// Steps run concurrently, one per core. Only the output of failed steps is printed.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

/** @typedef {{ readonly name: string, readonly run: () => Promise<Result> }} Step */
/** @typedef {{ readonly ok: boolean, readonly output: string }} Result */

/** @type {readonly Step[]} */
const STEPS = [
  step("types", "node_modules/typescript/bin/tsc", "--noEmit"),
  step("lint", "node_modules/oxlint/bin/oxlint", "--type-aware", "--deny-warnings"),
  step("format", "node_modules/prettier/bin/prettier.cjs", "--check", "."),
  step("proto lint", "node_modules/@bufbuild/buf/bin/buf", "lint", "proto"),
  step(
    "proto breaking",
    "node_modules/@bufbuild/buf/bin/buf",
    "breaking",
    "proto",
    "--against",
    "proto/baseline.binpb",
  ),
  { name: "generated code", run: compareGenerated },
  step("dead code", "node_modules/knip/bin/knip.js", "--no-progress"),
];

process.exitCode = await main(process.argv.slice(2));

/**
 * @param {readonly string[]} names Steps to run; none means all.
 * @returns {Promise<number>} exit code
 */
async function main(names) {
  const unknown = names.filter((name) => !STEPS.some((each) => each.name === name));
  if (unknown.length > 0) {
    console.error(
      `unknown step: ${unknown.join(", ")}; steps: ${STEPS.map((s) => s.name).join(", ")}`,
    );
    return 2;
  }
  const waiting = STEPS.filter(({ name }) => names.length === 0 || names.includes(name));
  let failed = 0;
  const worker = async () => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const start = performance.now();
      const { ok, output } = await next.run();
      const seconds = ((performance.now() - start) / 1000).toFixed(1);
      if (!ok) failed += 1;
      console.log(`${ok ? "ok    " : "FAILED"} ${next.name} (${seconds} s)`);
      if (!ok) console.log(`${output.trimEnd()}\n`);
    }
  };
  await Promise.all(Array.from({ length: Math.max(1, availableParallelism()) }, worker));
  return failed === 0 ? 0 : 1;
}

/**
 * @param {string} name
 * @param {string} script below the project's root
 * @param {readonly string[]} args
 * @returns {Step}
 */
function step(name, script, ...args) {
  return { name, run: () => run(process.execPath, [join(root, script), ...args]) };
}

/**
 * @param {string} command
 * @param {readonly string[]} args
 * @returns {Promise<Result>}
 */
async function run(command, args) {
  const child = spawn(command, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text) => (output += text));
  }
  try {
    const [code, signal] = await once(child, "close");
    if (code === null) output += `ended by ${signal}\n`;
    return { ok: code === 0, output };
  } catch (error) {
    return { ok: false, output: `cannot run ${command}: ${String(error)}\n` };
  }
}

/**
 * Checks that src/gen equals what proto/ generates.
 * @returns {Promise<Result>}
 */
async function compareGenerated() {
  const folder = await mkdtemp(join(tmpdir(), "sn-generated-"));
  try {
    const made = await run(process.execPath, [join(root, "bin/generate.js"), folder]);
    if (!made.ok) return made;
    const { ok, output } = await run("diff", [
      "--recursive",
      "--unified=1",
      "src/gen",
      join(folder, "src/gen"),
    ]);
    const hint = 'src/gen is not what proto/ generates; run "npm run generate" and commit it\n';
    return { ok, output: ok ? output : hint + output };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
