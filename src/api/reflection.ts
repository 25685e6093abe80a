// Server reflection over the descriptors that buf built (src/gen/descriptor.binpb), v1 and v1alpha.
// Own, because @grpc/reflection rebuilds descriptors through protobufjs and loses their dependencies,
// so that buf and grpcurl cannot resolve them.
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

  /** services: the full names that are served. */
  constructor(services: readonly string[]) {
    const bytes = readFileSync(new URL("../gen/descriptor.binpb", import.meta.url));
    this.#registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, bytes));
    this.#services = services;
  }

  /** Both versions have the same messages on the wire, and the same generated shape. */
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
          value: { errorCode: grpcStatus.INVALID_ARGUMENT, errorMessage: "nothing was asked" },
        };
    }
  }

  /** The file of a message, enum or service, or of a method or field by its parent's. */
  #fileOf(symbol: string): DescFile | undefined {
    const found = this.#registry.get(symbol);
    if (found !== undefined && "file" in found) return found.file;
    const parent = symbol.slice(0, Math.max(0, symbol.lastIndexOf(".")));
    const owner = parent === "" ? undefined : this.#registry.get(parent);
    return owner !== undefined && "file" in owner ? owner.file : undefined;
  }

  /** A file with everything it depends on, dependencies first: clients need no second question. */
  #file(file: DescFile | undefined, name: string): Answer {
    if (file === undefined) return notFound(`${name} is not known here`);
    const ordered = new Map<string, DescFile>();
    const add = (one: DescFile): void => {
      if (ordered.has(one.proto.name)) return;
      for (const dependency of one.dependencies) add(dependency);
      ordered.set(one.proto.name, one);
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
