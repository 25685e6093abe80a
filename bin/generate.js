// Generates src/gen (code and descriptor) from proto/:  node bin/generate.js [FOLDER]
// FOLDER, default the project's root, gets the src/gen; bin/check.js generates into a temporary one
// and compares. With --baseline instead: writes proto/baseline.binpb, the released API; "npm run
// check" refuses a change that breaks it. Run that after a new version of the API is released.
// Works offline and without npm's install scripts.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const buf = join(root, "node_modules/@bufbuild/buf/bin/buf");

/**
 * Runs buf in the project's root. Its plugins are scripts that run `node` from PATH: PATH starts
 * with the folder of this Node.
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
  // In this order: `buf generate` clears src/gen.
  await runBuf(["generate", "proto", "--template", "proto/buf.gen.yaml", "-o", folder]);
  await runBuf(["build", "proto", "-o", join(folder, "src/gen/descriptor.binpb")]);
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [, , argument = root] = process.argv;
  const written =
    argument === "--baseline"
      ? runBuf(["build", "proto", "-o", join(root, "proto/baseline.binpb")])
      : generate(resolve(argument));
  await written.catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
}
