// A trace collector for tests: an OTLP/gRPC server that decodes the spans sent by the agent's
// exporter, with its own proto definitions.
import { loadPackageDefinition, Server, ServerCredentials } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { fileURLToPath } from "node:url";
import { z } from "zod";

export type ReceivedSpan = {
  readonly traceId: string;
  readonly spanId: string;
  /** Undefined: a root, or the child of a caller's span. */
  readonly parentId: string | undefined;
  readonly name: string;
  readonly kind: "internal" | "server" | "client";
  readonly startNs: bigint;
  readonly endNs: bigint;
  readonly attributes: Readonly<Record<string, string | boolean>>;
  readonly links: readonly { readonly traceId: string; readonly spanId: string }[];
  /** Message of an error status; undefined: no error. */
  readonly error: string | undefined;
  readonly resource: Readonly<Record<string, string | boolean>>;
};

export type OtlpReceiver = AsyncDisposable & {
  /** Value for OTEL_EXPORTER_OTLP_ENDPOINT. */
  readonly url: string;
  readonly spans: () => readonly ReceivedSpan[];
  readonly trace: (traceId: string) => readonly ReceivedSpan[];
};

const hex = z.instanceof(Buffer).transform((bytes) => bytes.toString("hex"));
const keyValue = z.object({
  key: z.string(),
  value: z.object({
    value: z.string(),
    stringValue: z.string().optional(),
    boolValue: z.boolean().optional(),
    intValue: z.string().optional(),
    doubleValue: z.number().optional(),
  }),
});
const attributes = z
  .array(keyValue)
  .transform((pairs) =>
    Object.fromEntries(
      pairs.map(({ key, value }): [string, string | boolean] => [
        key,
        value.stringValue ?? value.boolValue ?? value.intValue ?? String(value.doubleValue),
      ]),
    ),
  );
const span = z.object({
  traceId: hex,
  spanId: hex,
  parentSpanId: hex,
  name: z.string(),
  kind: z.number(),
  startTimeUnixNano: z.string().transform(BigInt),
  endTimeUnixNano: z.string().transform(BigInt),
  attributes,
  links: z.array(z.object({ traceId: hex, spanId: hex })),
  status: z.object({ message: z.string(), code: z.number() }).nullable(),
});
const request = z.object({
  resourceSpans: z.array(
    z.object({
      resource: z.object({ attributes }),
      scopeSpans: z.array(z.object({ spans: z.array(span) })),
    }),
  ),
});

const KINDS: Readonly<Record<number, ReceivedSpan["kind"]>> = { 2: "server", 3: "client" };
const ERROR = 2;

export async function startOtlpReceiver(): Promise<OtlpReceiver> {
  const spans: ReceivedSpan[] = [];
  const file = fileURLToPath(new URL("./otlp/trace_service.proto", import.meta.url));
  const definition = loadSync(file, { longs: String, defaults: true, arrays: true, oneofs: true });
  loadPackageDefinition(definition);
  const service = definition["opentelemetry.proto.collector.trace.v1.TraceService"];
  if (service === undefined || "format" in service) throw new Error("no TraceService in its file");
  const server = new Server({ "grpc.max_receive_message_length": -1 });
  server.addService(service, {
    Export: (call: { readonly request: unknown }, done: (error: null, answer: object) => void) => {
      spans.push(...received(call.request));
      done(null, {});
    },
  });
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, bound) => {
      if (error === null) resolve(bound);
      else reject(error);
    });
  });
  return {
    url: `http://127.0.0.1:${port}`,
    spans: () => spans,
    trace: (id) => spans.filter(({ traceId }) => traceId === id),
    [Symbol.asyncDispose]: async () => {
      server.forceShutdown();
      await Promise.resolve();
    },
  };
}

function received(message: unknown): readonly ReceivedSpan[] {
  return request.parse(message).resourceSpans.flatMap(({ resource, scopeSpans }) =>
    scopeSpans.flatMap((scope) =>
      scope.spans.map((one) => ({
        traceId: one.traceId,
        spanId: one.spanId,
        parentId: one.parentSpanId === "" ? undefined : one.parentSpanId,
        name: one.name,
        kind: KINDS[one.kind] ?? "internal",
        startNs: one.startTimeUnixNano,
        endNs: one.endTimeUnixNano,
        attributes: one.attributes,
        links: one.links,
        error: one.status?.code === ERROR ? one.status.message : undefined,
        resource: resource.attributes,
      })),
    ),
  );
}

/** The spans of one trace as an indented tree, one line each as `show` prints it, by start time. */
export function treeOf(
  spans: readonly ReceivedSpan[],
  show: (span: ReceivedSpan) => string = ({ name }) => name,
): string {
  const ids = new Set(spans.map(({ spanId }) => spanId));
  const inOrder = spans.toSorted((a, b) => Number(a.startNs - b.startNs));
  const lines: string[] = [];
  const draw = (span: ReceivedSpan, depth: number): void => {
    lines.push(`${"  ".repeat(depth)}${show(span)}`);
    for (const child of inOrder) if (child.parentId === span.spanId) draw(child, depth + 1);
  };
  for (const root of inOrder) {
    if (root.parentId === undefined || !ids.has(root.parentId)) draw(root, 0);
  }
  return lines.join("\n");
}
