// What the tests and the service in the guest have agreed on.
import { z } from "zod";

/** TCP port of the service in the guest. */
export const SERVICE_PORT = 8080;

/** The line on the guest's console that says that the service answers. */
export const READY_LINE = "guest: ready";

export const scriptAnswer = z.object({
  /** Exit code of the script; -1 if a signal ended it. */
  code: z.int(),
  stdout: z.string(),
  stderr: z.string(),
});

export type ScriptAnswer = z.output<typeof scriptAnswer>;
