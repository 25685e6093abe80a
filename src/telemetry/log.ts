// JSON logs: a constant message, variable data in snake_case fields. Sizes go as text: readers of
// JSON round numbers above 2^53.
import { pino, type Logger } from "pino";

export function createLog(options: { readonly level: string; readonly nodeId: string }): Logger {
  return pino({
    level: options.level,
    base: { node_id: options.nodeId },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
  });
}
