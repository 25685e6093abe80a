// Maps an error to a gRPC status. A Refusal is sent to the client with its details, both cut. Any other error
// is logged and sent as INTERNAL; its message never reaches the client.
import { Metadata, status as grpcStatus, type ServiceError } from "@grpc/grpc-js";
import type { Logger } from "pino";
import type { Any } from "../gen/google/protobuf/any.ts";
import {
  BadRequest,
  ErrorInfo,
  PreconditionFailure,
  QuotaFailure,
  RetryInfo,
} from "../gen/google/rpc/error_details.ts";
import { Status } from "../gen/google/rpc/status.ts";
import { Refusal, type Reason } from "../model/errors.ts";
import { bounded, type BoundedRefusal } from "./bounded-refusal.ts";

const ERROR_DOMAIN = "storagenode.v1";
const DETAILS_KEY = "grpc-status-details-bin";

export function statusOf(
  error: unknown,
  call: { readonly method: string; readonly log: Logger },
): ServiceError {
  if (error instanceof Refusal) return refusalStatus(bounded(error));
  call.log.error({ err: error, method: call.method }, "RPC failed with an internal error");
  const internal = new Refusal("INTERNAL", "internal error in the agent; see the agent's log");
  return refusalStatus(bounded(internal));
}

function refusalStatus(refusal: BoundedRefusal): ServiceError {
  const code = grpcStatus[refusal.code];
  const metadata = new Metadata();
  const details = detailsOf(refusal);
  const message = Status.encode({ code, message: refusal.message, details }).finish();
  metadata.set(DETAILS_KEY, Buffer.from(message));
  return Object.assign(new Error(refusal.message), { code, details: refusal.message, metadata });
}

function detailsOf({ reason, details }: BoundedRefusal): Any[] {
  const { metadata, fields, quota, preconditions, retryAfterMs } = details;
  const all = [errorInfo(reason, metadata)];
  if (fields !== undefined) {
    all.push(any("BadRequest", BadRequest.encode({ fieldViolations: [...fields] }).finish()));
  }
  if (preconditions !== undefined) {
    const violations = preconditions.map((violation) => ({ type: reason, ...violation }));
    all.push(any("PreconditionFailure", PreconditionFailure.encode({ violations }).finish()));
  }
  if (quota !== undefined) {
    all.push(any("QuotaFailure", QuotaFailure.encode({ violations: [...quota] }).finish()));
  }
  if (retryAfterMs !== undefined) {
    const seconds = BigInt(Math.floor(retryAfterMs / 1_000));
    const retryDelay = { seconds, nanos: (retryAfterMs % 1_000) * 1e6 };
    all.push(any("RetryInfo", RetryInfo.encode({ retryDelay }).finish()));
  }
  return all;
}

function errorInfo(reason: Reason, metadata: Readonly<Record<string, string>> = {}): Any {
  const info = { reason, domain: ERROR_DOMAIN, metadata: { ...metadata } };
  return any("ErrorInfo", ErrorInfo.encode(info).finish());
}

function any(message: string, bytes: Uint8Array): Any {
  return { typeUrl: `type.googleapis.com/google.rpc.${message}`, value: Buffer.from(bytes) };
}
