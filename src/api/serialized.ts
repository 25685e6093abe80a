// Answers that are encoded before they are written: a stream with many readers encodes each of its
// messages once, and grpc-js only adds the frame.

/** The bytes of an answer of type T. */
export class Serialized<T> {
  declare readonly answer?: T;
  readonly bytes: Buffer;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }
}

/** The definition of a method whose handler may answer with messages or with encoded ones. */
export function mayBeSerialized<T, Definition extends { responseSerialize: (answer: T) => Buffer }>(
  definition: Definition & { responseSerialize: (answer: T) => Buffer },
) {
  const responseSerialize = (answer: T | Serialized<T>): Buffer =>
    answer instanceof Serialized ? answer.bytes : definition.responseSerialize(answer);
  return { ...definition, responseSerialize };
}
