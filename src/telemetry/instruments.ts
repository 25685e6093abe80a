// What adapters and loops are given to be seen with. It knows OpenTelemetry's API only, not where spans
// and numbers go.
import { createNoopMeter, ProxyTracerProvider, type Tracer } from "@opentelemetry/api";
import { Metrics } from "./metrics.ts";

export type Instruments = { readonly tracer: Tracer; readonly metrics: Metrics };

/** Nothing is traced and nothing measured; a caller's trace context is passed on all the same. */
export const NO_INSTRUMENTS: Instruments = {
  tracer: new ProxyTracerProvider().getTracer("storage-node"),
  metrics: new Metrics(createNoopMeter()),
};
