// A step that is being performed.
import type { Span } from "@opentelemetry/api";
import type { Sent } from "./suspects.ts";

export type Dispatched<View, Step> = {
  readonly loop: string;
  readonly id: string;
  /** `LOOP/STEP PART`: of the back-off. */
  readonly key: string;
  readonly view: View;
  readonly step: Step;
  /** Undefined: the step sends no change to the target. */
  readonly sent: Sent | undefined;
  readonly span: Span;
  readonly startMs: number;
};
