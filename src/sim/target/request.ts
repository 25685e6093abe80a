// Parses a JSON value as a JSON-RPC request (docs/spdk-contract.md#transport-and-framing): unknown
// and duplicate keys are refused.
import { JsonNumber, JsonObject, toText, type JsonValue } from "./json.ts";

export type Request = {
  /** JSON text of the id, echoed in the answer; undefined for a notification. */
  readonly id: string | undefined;
  readonly method: string;
  readonly params: JsonValue | undefined;
};

export type ReadRequest =
  | { readonly kind: "request"; readonly request: Request }
  /** Answered with "Invalid request" and this id. */
  | { readonly kind: "invalid"; readonly id: string };

const KEYS = new Set(["jsonrpc", "id", "method", "params"]);
const INVALID = { kind: "invalid", id: "null" } as const;

export function readRequest(value: JsonValue): ReadRequest {
  if (!(value instanceof JsonObject)) return INVALID;
  const names = value.entries.map(([name]) => name);
  if (new Set(names).size < names.length || names.some((name) => !KEYS.has(name))) return INVALID;
  const version = value.get("jsonrpc");
  if (version !== undefined && version !== "2.0") return INVALID;
  const id = readId(value.get("id"));
  const method = value.get("method");
  if (id === false || typeof method !== "string") return INVALID;
  const params = value.get("params");
  if (!isStructured(params)) return { kind: "invalid", id: id ?? "null" };
  return { kind: "request", request: { id, method, params: params ?? undefined } };
}

/** The text of an id; undefined if there is none, false if it is not a string or number. */
function readId(id: JsonValue | undefined): string | undefined | false {
  if (id === undefined || id === null) return undefined;
  return typeof id === "string" || id instanceof JsonNumber ? toText(id) : false;
}

function isStructured(params: JsonValue | undefined): boolean {
  return params === undefined || (typeof params === "object" && !(params instanceof JsonNumber));
}
