// Loaded into an agent before its program: answers each message of its parent with what its memory is
// after a garbage collection, in bytes.
import { collectGarbage } from "../support/collect-garbage.ts";

process.on("message", () => {
  void collectGarbage().then(() => {
    const { heapUsed, external, rss } = process.memoryUsage();
    process.send?.({ heapUsed, external, rss });
  });
});
// It is no reason for the agent to stay.
process.channel?.unref();
