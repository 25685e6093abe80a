// Where the spans of a pass belong. A step that serves an intent is part of the trace that the intent
// came with, however much later it is; what is done of our own accord, after a restart of the target
// say, is part of the pass, whose span is a root with links to the intents. A pass that hands out
// nothing makes no span.
import {
  isSpanContextValid,
  ROOT_CONTEXT,
  trace,
  type Attributes,
  type Context,
  type Span,
  type Tracer,
} from "@opentelemetry/api";
import { ATTR } from "../../telemetry/attributes.ts";
import { contextOf, endSpan, startSpan } from "../../telemetry/trace.ts";

export type IntentTrace = {
  readonly traceparent: string | undefined;
  /** It was not seen to be fulfilled yet: what is done now is done for it. */
  readonly open: boolean;
};

export class PassTrace {
  readonly #tracer: Tracer;
  readonly #over: string;
  readonly #objects: number;
  #pass: Span | undefined;
  #steps = 0;

  constructor(tracer: Tracer, over: string, objects: number) {
    this.#tracer = tracer;
    this.#over = over;
    this.#objects = objects;
  }

  /** A span for a step of this pass. */
  step(name: string, intent: IntentTrace, attributes: Attributes): Span {
    this.#steps += 1;
    const parent = contextOf(intent.traceparent);
    this.#pass ??= startSpan(this.#tracer, `reconcile ${this.#over}`, { parent: ROOT_CONTEXT });
    if (parent !== undefined) this.#link(this.#pass, parent);
    const under = this.contextFor(intent);
    const span = startSpan(this.#tracer, name, { attributes, parent: under });
    if (parent !== undefined && under !== parent && !intent.open) this.#link(span, parent);
    return span;
  }

  /** What is recorded of an object lies where its steps lie. */
  contextFor(intent: IntentTrace): Context {
    const parent = intent.open ? contextOf(intent.traceparent) : undefined;
    if (parent !== undefined) return parent;
    return this.#pass === undefined ? ROOT_CONTEXT : trace.setSpan(ROOT_CONTEXT, this.#pass);
  }

  end(): void {
    if (this.#pass === undefined) return;
    this.#pass.setAttributes({
      [ATTR.passObjects]: this.#objects,
      [ATTR.passSteps]: this.#steps,
    });
    endSpan(this.#pass);
  }

  #link(span: Span, to: Context): void {
    const linked = trace.getSpanContext(to);
    if (linked !== undefined && isSpanContextValid(linked)) span.addLink({ context: linked });
  }
}
