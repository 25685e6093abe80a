// JSON logs: a constant message, variable data in snake_case fields, and the ids of the active
// trace. Sizes are logged as text: readers of JSON round numbers above 2^53.
import { trace } from "@opentelemetry/api";
import { pino, type DestinationStream, type Logger, type LoggerOptions } from "pino";
import { traceIds } from "./trace.ts";

export function createLog(
  options: { readonly level: string; readonly nodeId: string },
  destination?: DestinationStream,
): Logger {
  const shape: LoggerOptions = {
    level: options.level,
    base: { node_id: options.nodeId },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    mixin: () => {
      const span = trace.getActiveSpan();
      return span === undefined ? {} : traceIds(span);
    },
  };
  return destination === undefined ? pino(shape) : pino(shape, destination);
}
