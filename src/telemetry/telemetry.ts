// Sets up OpenTelemetry: spans are exported over OTLP/gRPC to OTEL_EXPORTER_OTLP_ENDPOINT, metrics
// are collected at each scrape. Without an endpoint no spans are made. While the collector cannot
// be reached, spans wait in a bounded queue and are dropped beyond it; the agent never waits for
// them.
import { context, type Meter } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import { PrometheusSerializer } from "@opentelemetry/exporter-prometheus";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-grpc";
import { resourceFromAttributes, type Resource } from "@opentelemetry/resources";
import {
  AggregationType,
  InstrumentType,
  MeterProvider,
  MetricReader,
  type MetricData,
} from "@opentelemetry/sdk-metrics";
import {
  AlwaysOffSampler,
  AlwaysOnSampler,
  BatchSpanProcessor,
  ParentBasedSampler,
  TraceIdRatioBasedSampler,
  TracerProvider,
  type Sampler,
} from "@opentelemetry/sdk-trace";
import {
  ATTR_SERVICE_INSTANCE_ID,
  ATTR_SERVICE_NAME,
  ATTR_SERVICE_NAMESPACE,
  ATTR_SERVICE_VERSION,
} from "@opentelemetry/semantic-conventions";
import { NO_INSTRUMENTS, type Instruments } from "./instruments.ts";
import { Metrics } from "./metrics.ts";
import type { TelemetryConfig } from "./telemetry-config.ts";

export type Telemetry = Instruments &
  AsyncDisposable & {
    /** For observable gauges, which are read at each scrape. */
    readonly meter: Meter;
    /** All metrics in Prometheus' text format. */
    readonly scrape: () => Promise<string>;
  };

const SCOPE = "storage-node";
/**
 * Spans that wait for export, about 1 KiB each: those of some 2,000 volumes provisioned at once.
 */
const MAX_QUEUE = 32_768;
const BATCH = 512;
/** Time limit for the export of the remaining spans at stop. */
const FLUSH_LIMIT_MS = 2_000;

/** Bucket boundaries of all histograms, in seconds: 0.5 ms to 30 s. */
const DURATION_BOUNDARIES = [
  0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
];

export function startTelemetry(
  config: TelemetryConfig,
  agent: { readonly nodeId: string; readonly fleet: string; readonly version: string },
): Telemetry {
  // The only global of OpenTelemetry that is set: it carries the active span across async calls.
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  const resource = resourceFromAttributes({
    [ATTR_SERVICE_NAME]: config.serviceName,
    [ATTR_SERVICE_NAMESPACE]: agent.fleet,
    [ATTR_SERVICE_INSTANCE_ID]: agent.nodeId,
    [ATTR_SERVICE_VERSION]: agent.version,
    ...config.resourceAttributes,
  });
  const tracing = startTracing(config, resource);
  const reader = new ScrapeReader();
  const meters = new MeterProvider({ resource, readers: [reader] });
  const meter = meters.getMeter(SCOPE, agent.version);
  return {
    tracer: tracing?.getTracer(SCOPE, agent.version) ?? NO_INSTRUMENTS.tracer,
    meter,
    metrics: new Metrics(meter),
    scrape: () => reader.scrape(),
    [Symbol.asyncDispose]: async () => {
      await meters.shutdown();
      if (tracing !== undefined) await withinLimit(tracing.shutdown());
    },
  };
}

function startTracing(config: TelemetryConfig, resource: Resource): TracerProvider | undefined {
  if (config.endpoint === undefined) return undefined;
  const exporter = new OTLPTraceExporter({
    url: config.endpoint,
    timeoutMillis: config.exportTimeoutMs,
  });
  const processor = new BatchSpanProcessor({
    exporter,
    maxQueueSize: MAX_QUEUE,
    maxExportBatchSize: BATCH,
    scheduledDelayMillis: config.exportDelayMs,
    exportTimeoutMillis: config.exportTimeoutMs,
  });
  return new TracerProvider({ resource, sampler: samplerOf(config), spanProcessors: [processor] });
}

function samplerOf({ sampler, samplerRatio }: TelemetryConfig): Sampler {
  switch (sampler) {
    case "always_on":
      return new AlwaysOnSampler();
    case "always_off":
      return new AlwaysOffSampler();
    case "traceidratio":
      return new TraceIdRatioBasedSampler(samplerRatio);
    case "parentbased_always_on":
      return new ParentBasedSampler({ root: new AlwaysOnSampler() });
    case "parentbased_always_off":
      return new ParentBasedSampler({ root: new AlwaysOffSampler() });
    case "parentbased_traceidratio":
      return new ParentBasedSampler({ root: new TraceIdRatioBasedSampler(samplerRatio) });
  }
}

/** Collects metrics on demand, for the agent's own HTTP server. */
class ScrapeReader extends MetricReader {
  readonly #serializer = new PrometheusSerializer("", false, undefined, false, true);

  constructor() {
    super({
      aggregationSelector: (type) =>
        type === InstrumentType.HISTOGRAM
          ? {
              type: AggregationType.EXPLICIT_BUCKET_HISTOGRAM,
              options: { boundaries: DURATION_BOUNDARIES },
            }
          : { type: AggregationType.DEFAULT },
    });
  }

  async scrape(): Promise<string> {
    const { resourceMetrics } = await this.collect();
    const scopeMetrics = resourceMetrics.scopeMetrics.map((scope) => ({
      ...scope,
      metrics: scope.metrics.map((metric) => ({ ...metric, descriptor: withUnitInName(metric) })),
    }));
    return this.#serializer.serialize({ ...resourceMetrics, scopeMetrics });
  }

  protected override onShutdown(): Promise<void> {
    return Promise.resolve();
  }

  protected override onForceFlush(): Promise<void> {
    return Promise.resolve();
  }
}

const UNIT_WORDS: Readonly<Record<string, string>> = { s: "seconds", By: "bytes" };

/**
 * Appends the unit to the name, as OpenTelemetry's rules for Prometheus say; the serializer does
 * not.
 */
function withUnitInName({ descriptor }: MetricData): MetricData["descriptor"] {
  const unit = UNIT_WORDS[descriptor.unit];
  if (unit === undefined) return descriptor;
  return { ...descriptor, name: `${descriptor.name}.${unit}`, unit };
}

/** Waits for the flush, within the limit: an unreachable collector must not delay the exit. */
async function withinLimit(flush: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, FLUSH_LIMIT_MS);
  });
  await Promise.race([flush.catch(() => {}), limit]);
  clearTimeout(timer);
}
