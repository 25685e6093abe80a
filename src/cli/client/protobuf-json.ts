// Messages as JSON, exactly as protobuf defines it: camelCase names, 64-bit numbers as text, enums by
// name. Made by the descriptors that reflection serves too, so that it is what grpcurl prints.
import { createFileRegistry, fromBinary, toJson, type JsonValue } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { readFileSync } from "node:fs";

const PACKAGE = "storagenode.v1";

/** How ts-proto writes a message of one type. */
type Encodes<Message> = {
  readonly encode: (message: Message) => { readonly finish: () => Uint8Array };
};

/** Makes JSON of messages by the names of their types. Fields that are empty or zero are told, too. */
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
