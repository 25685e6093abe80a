// Ends a process that bin/node24.js has started once its launcher is gone: one that is killed with -9 can
// pass no signal on, but its channel closes. Imported into the process before its own program.
import { isMainThread } from "node:worker_threads";

if (isMainThread && process.channel != null) {
  process.once("disconnect", () => process.kill(process.pid, "SIGTERM"));
  // The channel alone keeps no process from ending.
  process.channel.unref();
}
