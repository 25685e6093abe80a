// Server reflection v1 and v1alpha over the descriptors that buf built (src/gen/descriptor.binpb).
// The package @grpc/reflection is not used: it rebuilds descriptors through protobufjs and loses
// their dependencies, so that buf and grpcurl cannot resolve them.
import {
  createFileRegistry,
  fromBinary,
  toBinary,
  type DescFile,
  type FileRegistry,
} from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema, FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { status as grpcStatus } from "@grpc/grpc-js";
import { readFileSync } from "node:fs";
import type {
  ServerReflectionRequest,
  ServerReflectionResponse,
  ServerReflectionServer,
} from "../gen/grpc/reflection/v1/reflection.ts";
import { cutText } from "../cut-text.ts";
import { MAX_TOLD_BYTES } from "../limits.ts";
import type { OpenCalls } from "./call.ts";

type Answer = NonNullable<ServerReflectionResponse["messageResponse"]>;

export class Reflection {
  readonly #registry: FileRegistry;
  readonly #services: readonly string[];
  readonly #answers = new Map<DescFile, Answer>();

  /** services: full names of the services that the server has. */
  constructor(services: readonly string[]) {
    const bytes = readFileSync(new URL("../gen/descriptor.binpb", import.meta.url));
    this.#registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, bytes));
    this.#services = services;
  }

  /** The messages and generated types of both versions are identical. */
  handlers(calls: OpenCalls, version: "v1" | "v1alpha"): ServerReflectionServer {
    const method = `grpc.reflection.${version}.ServerReflection/ServerReflectionInfo`;
    return {
      serverReflectionInfo: calls.duplex(
        method,
        (request: ServerReflectionRequest): ServerReflectionResponse => {
          const messageResponse = this.#answer(request.messageRequest);
          return { validHost: request.host, originalRequest: request, messageResponse };
        },
      ),
    };
  }

  #answer(asked: ServerReflectionRequest["messageRequest"]): Answer {
    switch (asked?.$case) {
      case "listServices":
        return {
          $case: "listServicesResponse",
          value: { service: this.#services.map((name) => ({ name })) },
        };
      case "fileByFilename":
        return this.#file(this.#registry.getFile(asked.value), asked.value);
      case "fileContainingSymbol":
        return this.#file(this.#fileOf(asked.value), asked.value);
      case "fileContainingExtension":
        return notFound(`no extensions of ${asked.value.containingType}`);
      case "allExtensionNumbersOfType":
        return {
          $case: "allExtensionNumbersResponse",
          value: { baseTypeName: asked.value, extensionNumber: [] },
        };
      case undefined:
        return {
          $case: "errorResponse",
          value: {
            errorCode: grpcStatus.INVALID_ARGUMENT,
            errorMessage: "message_request must be set",
          },
        };
    }
  }

  /** The file of a message, enum or service; of a method or field, the file of its parent. */
  #fileOf(symbol: string): DescFile | undefined {
    const found = this.#registry.get(symbol);
    if (found !== undefined && "file" in found) return found.file;
    const parent = symbol.slice(0, Math.max(0, symbol.lastIndexOf(".")));
    const owner = parent === "" ? undefined : this.#registry.get(parent);
    return owner !== undefined && "file" in owner ? owner.file : undefined;
  }

  /**
   * A file and all files that it imports, the file itself first: clients need no further request.
   */
  #file(file: DescFile | undefined, name: string): Answer {
    if (file === undefined) return notFound(`no descriptor for ${name}`);
    const known = this.#answers.get(file);
    if (known !== undefined) return known;
    const ordered = new Map<string, DescFile>();
    const add = (next: DescFile): void => {
      if (ordered.has(next.proto.name)) return;
      for (const dependency of next.dependencies) add(dependency);
      ordered.set(next.proto.name, next);
    };
    add(file);
    const protos = [...ordered.values()].map(({ proto }) =>
      Buffer.from(toBinary(FileDescriptorProtoSchema, proto)),
    );
    const value = { fileDescriptorProto: protos.toReversed() };
    const answer: Answer = { $case: "fileDescriptorResponse", value };
    this.#answers.set(file, answer);
    return answer;
  }
}

function notFound(message: string): Answer {
  const errorMessage = cutText(message, MAX_TOLD_BYTES);
  return { $case: "errorResponse", value: { errorCode: grpcStatus.NOT_FOUND, errorMessage } };
}
