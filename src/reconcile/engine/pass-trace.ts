// Chooses the parent span of each step of a pass. A step that serves an open intent belongs to the
// trace of that intent, however much later it runs. A step without an open intent, e.g. after a
// restart of the target, belongs to the span of the pass: a root span with links to the intents. A
// pass without steps makes no span.
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
  /** The intent is not observed to be fulfilled yet: steps are taken for it. */
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

  /** Starts a span for a step of this pass. */
  step(name: string, intent: IntentTrace, attributes: Attributes): Span {
    this.#steps += 1;
    const parent = contextOf(intent.traceparent);
    this.#pass ??= startSpan(this.#tracer, `reconcile ${this.#over}`, { parent: ROOT_CONTEXT });
    if (parent !== undefined) this.#link(this.#pass, parent);
    const chosen = this.contextFor(intent);
    const span = startSpan(this.#tracer, name, { attributes, parent: chosen });
    if (parent !== undefined && chosen !== parent && !intent.open) this.#link(span, parent);
    return span;
  }

  /** The context for steps and for recorded status of an object with this intent. */
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
