// Telemetry of SPDK calls: a span per call, child of the step that made it, and a duration metric
// by method and code. It never records parameters or results, because they contain host NQNs.
import { SpanKind } from "@opentelemetry/api";
import {
  ATTR_ERROR_TYPE,
  ATTR_RPC_METHOD,
  ATTR_RPC_STATUS_CODE,
  ATTR_RPC_SYSTEM_NAME,
  ATTR_SERVER_ADDRESS,
} from "@opentelemetry/semantic-conventions";
import { ATTR } from "../telemetry/attributes.ts";
import type { Instruments } from "../telemetry/instruments.ts";
import { childSpan, endSpan, failed } from "../telemetry/trace.ts";
import type { CallObserver } from "./observer.ts";
import type { Outcome } from "./outcome.ts";

/** path: the target's socket, recorded as server.address. */
export function callTelemetry({ tracer, metrics }: Instruments, path: string): CallObserver {
  return ({ method, dump, requestBytes: bytes, queued }) => {
    metrics.spdkRequest({ method, bytes, dump });
    const span = childSpan(tracer, method, {
      kind: SpanKind.CLIENT,
      attributes: {
        [ATTR_RPC_SYSTEM_NAME]: "jsonrpc",
        [ATTR_RPC_METHOD]: method,
        [ATTR_SERVER_ADDRESS]: path,
        [ATTR.queued]: queued,
        ...(dump ? { [ATTR.dump]: true } : {}),
      },
    });
    return ({ outcome, durationMs }) => {
      const code = codeOf(outcome);
      metrics.spdkCall({ method, code, durationMs });
      if (span === undefined) return;
      span.setAttribute(ATTR_RPC_STATUS_CODE, code);
      if (outcome.kind !== "ok") {
        span.setAttribute(ATTR_ERROR_TYPE, code);
        failed(span, outcome.kind === "error" ? outcome.message : `${outcome.kind}: ${code}`);
      }
      endSpan(span);
    };
  };
}

/** "OK", SPDK's error code as text, or the reason why there is no answer. */
function codeOf(outcome: Outcome): string {
  switch (outcome.kind) {
    case "ok":
      return "OK";
    case "error":
      return String(outcome.code);
    case "not_sent":
    case "unknown":
      return outcome.reason;
  }
}
