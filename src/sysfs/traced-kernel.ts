// Wraps a Kernel in a span per write, so that the trace of a step shows what it changed in sysfs.
// Reads get no span: there are many, and they change nothing.
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
