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
import { status as grpcStatus, type ServerDuplexStream } from "@grpc/grpc-js";
import { readFileSync } from "node:fs";
import type {
  ServerReflectionRequest,
  ServerReflectionResponse,
  ServerReflectionServer,
} from "../gen/grpc/reflection/v1/reflection.ts";

type Answer = NonNullable<ServerReflectionResponse["messageResponse"]>;

export class Reflection {
  readonly #registry: FileRegistry;
  readonly #services: readonly string[];

  /** services: full names of the services that the server has. */
  constructor(services: readonly string[]) {
    const bytes = readFileSync(new URL("../gen/descriptor.binpb", import.meta.url));
    this.#registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, bytes));
    this.#services = services;
  }

  /** Handlers for v1 and v1alpha: their messages and generated types are identical. */
  handlers(): ServerReflectionServer {
    return {
      serverReflectionInfo: (
        call: ServerDuplexStream<ServerReflectionRequest, ServerReflectionResponse>,
      ) => {
        call.on("data", (request: ServerReflectionRequest) => {
          const messageResponse = this.#answer(request.messageRequest);
          call.write({ validHost: request.host, originalRequest: request, messageResponse });
        });
        call.on("end", () => call.end());
        call.on("error", () => call.end());
      },
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
    return { $case: "fileDescriptorResponse", value: { fileDescriptorProto: protos.toReversed() } };
  }
}

function notFound(errorMessage: string): Answer {
  return { $case: "errorResponse", value: { errorCode: grpcStatus.NOT_FOUND, errorMessage } };
}
