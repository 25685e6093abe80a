// Counters and histograms, with the names of docs/observability.md. Labels have closed sets of
// values (loops, steps, methods, codes): never an id, a host or free text.
import type { Attributes, Counter, Histogram, Meter } from "@opentelemetry/api";
import {
  ATTR_DB_OPERATION_NAME,
  ATTR_DB_SYSTEM_NAME,
  ATTR_ERROR_TYPE,
  ATTR_RPC_METHOD,
  ATTR_RPC_STATUS_CODE,
  ATTR_RPC_SYSTEM_NAME,
  DB_SYSTEM_NAME_VALUE_POSTGRESQL,
  METRIC_DB_CLIENT_OPERATION_DURATION,
  METRIC_RPC_CLIENT_CALL_DURATION,
  METRIC_RPC_SERVER_CALL_DURATION,
} from "@opentelemetry/semantic-conventions";

export type StepEnd = {
  readonly loop: string;
  readonly step: string;
  readonly result: "ok" | "retry" | "fatal";
  readonly durationMs: number;
};

/** What a volume's intent asked for. */
export type IntentKind = "provision" | "update" | "delete";

export class Metrics {
  readonly #passes: Counter;
  readonly #steps: Histogram;
  readonly #spdkCalls: Histogram;
  readonly #spdkBytes: Counter;
  readonly #spdkDumps: Counter;
  readonly #grpcCalls: Histogram;
  readonly #statements: Histogram;
  readonly #commits: Histogram;
  readonly #intentObserved: Histogram;
  readonly #iostatDropped: Counter;
  readonly #events: Counter;

  constructor(meter: Meter) {
    const seconds = (name: string, description: string) =>
      meter.createHistogram(name, { description, unit: "s" });
    this.#passes = meter.createCounter("storagenode.passes", {
      description: "Passes of a loop over the objects that were woken",
    });
    this.#steps = seconds("storagenode.step.duration", "Steps by loop, kind and result");
    this.#spdkCalls = seconds(
      METRIC_RPC_CLIENT_CALL_DURATION,
      "SPDK calls by method and code, from the call to its answer",
    );
    this.#spdkBytes = meter.createCounter("storagenode.spdk.request.size", {
      description: "Bytes of requests handed to the SPDK connection",
      unit: "By",
    });
    this.#spdkDumps = meter.createCounter("storagenode.spdk.dumps", {
      description: "SPDK calls whose response lists all objects of a kind",
    });
    this.#grpcCalls = seconds(
      METRIC_RPC_SERVER_CALL_DURATION,
      "Calls of the API by method and code",
    );
    this.#statements = seconds(METRIC_DB_CLIENT_OPERATION_DURATION, "Statements by operation");
    this.#commits = seconds("storagenode.commit.duration", "Transactions of the writer, by result");
    this.#events = meter.createCounter("storagenode.events", {
      description: "Events that were written, or dropped because too many waited, by result",
    });
    this.#intentObserved = seconds(
      "storagenode.intent.observed.duration",
      "From the commit of a volume's intent until it was observed on the target and recorded",
    );
    this.#iostatDropped = meter.createCounter("storagenode.iostat.dropped", {
      description: "Answers of StreamIostat that were dropped because the reader was too slow",
    });
  }

  events(result: "written" | "dropped", count: number): void {
    this.#events.add(count, { result });
  }

  pass(loop: string): void {
    this.#passes.add(1, { loop });
  }

  step({ loop, step, result, durationMs }: StepEnd): void {
    this.#steps.record(durationMs / 1_000, { loop, step, result });
  }

  spdkRequest(call: { readonly method: string; readonly bytes: number; readonly dump: boolean }) {
    this.#spdkBytes.add(call.bytes);
    if (call.dump) this.#spdkDumps.add(1, { [ATTR_RPC_METHOD]: call.method });
  }

  /** code: "OK", SPDK's error number, or why there is no response. */
  spdkCall(call: { readonly method: string; readonly code: string; readonly durationMs: number }) {
    this.#spdkCalls.record(call.durationMs / 1_000, {
      [ATTR_RPC_SYSTEM_NAME]: "jsonrpc",
      [ATTR_RPC_METHOD]: call.method,
      [ATTR_RPC_STATUS_CODE]: call.code,
    });
  }

  grpcCall(call: { readonly method: string; readonly code: string; readonly durationMs: number }) {
    this.#grpcCalls.record(call.durationMs / 1_000, {
      [ATTR_RPC_SYSTEM_NAME]: "grpc",
      [ATTR_RPC_METHOD]: call.method,
      [ATTR_RPC_STATUS_CODE]: call.code,
    });
  }

  statement(operation: string, durationMs: number, errorType: string | undefined): void {
    const attributes: Attributes = {
      [ATTR_DB_SYSTEM_NAME]: DB_SYSTEM_NAME_VALUE_POSTGRESQL,
      [ATTR_DB_OPERATION_NAME]: operation,
    };
    if (errorType !== undefined) attributes[ATTR_ERROR_TYPE] = errorType;
    this.#statements.record(durationMs / 1_000, attributes);
  }

  commit(result: "ok" | "failed", durationMs: number): void {
    this.#commits.record(durationMs / 1_000, { result });
  }

  iostatDropped(): void {
    this.#iostatDropped.add(1);
  }

  intentObserved(intent: IntentKind, durationMs: number): void {
    this.#intentObserved.record(durationMs / 1_000, { intent });
  }
}
