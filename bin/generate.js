// Writes the code and the descriptor that are generated from proto/:  node bin/generate.js [FOLDER]
// FOLDER stands for the project's root: src/gen is written below it (the check generates into a
// temporary one and compares). Works offline and without npm's install scripts.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const buf = join(root, "node_modules/@bufbuild/buf/bin/buf");

/**
 * Runs buf in the project's root. The plugins it starts are scripts for `node`: they get this one.
 * @param {readonly string[]} args
 */
async function runBuf(args) {
  const env = {
    ...process.env,
    PATH: `${dirname(process.execPath)}:${process.env["PATH"] ?? ""}`,
  };
  const child = spawn(process.execPath, [buf, ...args], { cwd: root, env, stdio: "inherit" });
  const [code] = await once(child, "exit");
  if (code !== 0) throw new Error(`buf ${args[0]} failed`);
}

/**
 * @param {string} folder
 */
export async function generate(folder) {
  // One after the other: the generation clears src/gen first.
  await runBuf(["generate", "proto", "--template", "proto/buf.gen.yaml", "-o", folder]);
  await runBuf(["build", "proto", "-o", join(folder, "src/gen/descriptor.binpb")]);
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  await generate(resolve(process.argv[2] ?? root)).catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
}
