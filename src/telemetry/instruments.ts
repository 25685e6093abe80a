// The tracer and the metrics that adapters and loops report to. It depends on OpenTelemetry's API
// only, never on an exporter.
import { createNoopMeter, ProxyTracerProvider, type Tracer } from "@opentelemetry/api";
import { Metrics } from "./metrics.ts";

export type Instruments = { readonly tracer: Tracer; readonly metrics: Metrics };

/** Records no spans and no metrics; a caller's trace context is still passed on. */
export const NO_INSTRUMENTS: Instruments = {
  tracer: new ProxyTracerProvider().getTracer("storage-node"),
  metrics: new Metrics(createNoopMeter()),
};
