// Loaded into an agent before its program: answers each message of its parent with what its memory is
// after a garbage collection, in bytes.
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

setFlagsFromString("--expose-gc");
const collect: unknown = runInNewContext("gc");

process.on("message", () => {
  if (typeof collect === "function") collect();
  const { heapUsed, external, rss } = process.memoryUsage();
  process.send?.({ heapUsed, external, rss });
});
// It is no reason for the agent to stay.
process.channel?.unref();
