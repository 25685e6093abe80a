// Where spans and metrics go: spans over OTLP/gRPC to wherever OTEL_EXPORTER_OTLP_ENDPOINT says, metrics
// to whoever scrapes. Without an endpoint no span is made. An exporter that is away costs nothing but
// a bounded queue: what does not fit is dropped, never waited for.
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
    /** For what is read when somebody scrapes. */
    readonly meter: Meter;
    /** Everything measured, in Prometheus' text format. */
    readonly scrape: () => Promise<string>;
  };

const SCOPE = "storage-node";
/** Spans of some 2,000 volumes provisioned at once; about 1 KiB each. */
const MAX_QUEUE = 32_768;
const BATCH = 512;
/** What is left is sent on stop, if somebody takes it within this. */
const FLUSH_LIMIT_MS = 2_000;

/** Milliseconds to half a minute, in seconds as Prometheus has them. */
const DURATION_BOUNDARIES = [
  0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
];

export function startTelemetry(
  config: TelemetryConfig,
  agent: { readonly nodeId: string; readonly fleet: string; readonly version: string },
): Telemetry {
  // The one global of OpenTelemetry that is used: which span is active follows each async call.
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

/** Collects when it is asked to, for a server of our own. */
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
      metrics: scope.metrics.map((metric) => ({ ...metric, descriptor: inWords(metric) })),
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

/** Prometheus has the unit in the name, as a word (OpenTelemetry's rules); the serializer leaves it out. */
function inWords({ descriptor }: MetricData): MetricData["descriptor"] {
  const unit = UNIT_WORDS[descriptor.unit];
  if (unit === undefined) return descriptor;
  return { ...descriptor, name: `${descriptor.name}.${unit}`, unit };
}

/** A collector that does not answer is no reason to go on running. */
async function withinLimit(flush: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, FLUSH_LIMIT_MS);
  });
  await Promise.race([flush.catch(() => {}), limit]);
  clearTimeout(timer);
}
