// The environment variables of OpenTelemetry that the agent supports, with the names and meanings
// of its specification, validated like every other setting. Some defaults are the agent's own.
import { z } from "zod";

export type TelemetryConfig = {
  readonly serviceName: string;
  readonly resourceAttributes: Readonly<Record<string, string>>;
  /** URL of the collector; undefined: nothing is traced. */
  readonly endpoint: string | undefined;
  readonly sampler: z.infer<typeof samplerName>;
  readonly samplerRatio: number;
  readonly exportDelayMs: number;
  readonly exportTimeoutMs: number;
};

const samplerName = z.enum([
  "always_on",
  "always_off",
  "traceidratio",
  "parentbased_always_on",
  "parentbased_always_off",
  "parentbased_traceidratio",
]);

const flag = z
  .string()
  .regex(/^(true|false)$/i, "must be true or false")
  .transform((text) => text.toLowerCase() === "true");

const url = z
  .string()
  .regex(/^(https?|unix):\/\/.+/, "must be a URL such as http://127.0.0.1:4317");

const milliseconds = z
  .string()
  .regex(/^\d{1,9}$/, "must be a number of milliseconds")
  .transform(Number);

const ratio = z
  .string()
  .refine((text) => Number(text) >= 0 && Number(text) <= 1, "must be a number from 0 to 1")
  .transform(Number);

const attributes = z
  .string()
  .regex(/^([^=,]+=[^,]*)(,[^=,]+=[^,]*)*$/, "must be key=value, comma-separated")
  .refine((text) => !/%(?![0-9A-Fa-f]{2})/.test(text), {
    error: "has a % that does not begin a percent-encoded byte",
    abort: true,
  })
  .transform((text) =>
    Object.fromEntries(
      text.split(",").map((pair) => {
        const at = pair.indexOf("=");
        return [pair.slice(0, at).trim(), decoded(pair.slice(at + 1).trim())];
      }),
    ),
  );

/** Decodes percent-encoded UTF-8; other text is returned as is. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The variables that are read, as a part of the schema of the environment. */
export const telemetryEnvironment = {
  OTEL_SDK_DISABLED: flag.default(false),
  OTEL_SERVICE_NAME: z.string().default("storage-node"),
  OTEL_RESOURCE_ATTRIBUTES: attributes.default({}),
  OTEL_TRACES_EXPORTER: z.enum(["otlp", "none"], { error: "must be otlp or none" }).default("otlp"),
  OTEL_EXPORTER_OTLP_ENDPOINT: url.optional(),
  OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: url.optional(),
  OTEL_EXPORTER_OTLP_TIMEOUT: milliseconds.default(10_000),
  OTEL_TRACES_SAMPLER: samplerName.default("parentbased_always_on"),
  OTEL_TRACES_SAMPLER_ARG: ratio.default(1),
  OTEL_BSP_SCHEDULE_DELAY: milliseconds.default(1_000),
} as const;

type Values = z.infer<ReturnType<typeof z.object<typeof telemetryEnvironment>>>;

export function telemetryConfig(values: Values): TelemetryConfig {
  const wanted = !values.OTEL_SDK_DISABLED && values.OTEL_TRACES_EXPORTER === "otlp";
  const endpoint = values.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT ?? values.OTEL_EXPORTER_OTLP_ENDPOINT;
  return {
    serviceName: values.OTEL_SERVICE_NAME,
    resourceAttributes: values.OTEL_RESOURCE_ATTRIBUTES,
    endpoint: wanted ? endpoint : undefined,
    sampler: values.OTEL_TRACES_SAMPLER,
    samplerRatio: values.OTEL_TRACES_SAMPLER_ARG,
    exportDelayMs: values.OTEL_BSP_SCHEDULE_DELAY,
    exportTimeoutMs: values.OTEL_EXPORTER_OTLP_TIMEOUT,
  };
}
