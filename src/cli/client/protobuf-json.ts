// Encodes messages as protobuf JSON: camelCase names, 64-bit numbers as text, enums by name. Uses
// the descriptors that reflection serves, so that the output equals that of grpcurl.
import { createFileRegistry, fromBinary, toJson, type JsonValue } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { readFileSync } from "node:fs";

const PACKAGE = "storagenode.v1";

/** The encoder that ts-proto generates for a message type. */
export type Encodes<Message> = {
  readonly encode: (message: Message) => { readonly finish: () => Uint8Array };
};

/** Loads the descriptors and returns an encoder. Empty and zero fields are included in the JSON. */
export function protobufJson(): <Message>(
  name: string,
  type: Encodes<Message>,
  message: Message,
) => JsonValue {
  const bytes = readFileSync(new URL("../../gen/descriptor.binpb", import.meta.url));
  const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, bytes));
  return (name, type, message) => {
    const schema = registry.getMessage(`${PACKAGE}.${name}`);
    if (schema === undefined) throw new Error(`no message ${name} in ${PACKAGE}`);
    const read = fromBinary(schema, type.encode(message).finish());
    return toJson(schema, read, { registry, alwaysEmitImplicit: true });
  };
}
