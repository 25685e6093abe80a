// The kernel port with a span around each write: what the agent did to a driver shows in the trace of
// the step that did it. Reads are too many and change nothing.
import type { Tracer } from "@opentelemetry/api";
import { ATTR } from "../telemetry/attributes.ts";
import { inChildSpan } from "../telemetry/trace.ts";
import type { Kernel } from "./kernel.ts";

export function tracedKernel(kernel: Kernel, tracer: Tracer): Kernel {
  return {
    ...kernel,
    write: (path, text) =>
      inChildSpan(
        tracer,
        {
          name: `write ${path.slice(path.lastIndexOf("/") + 1)}`,
          attributes: { [ATTR.sysfsPath]: path, [ATTR.sysfsText]: text },
        },
        () => kernel.write(path, text),
      ),
  };
}
