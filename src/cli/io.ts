// The environment of a command: variables, output streams, and the signal to stop. In a file of its
// own, so that no command imports cli.ts, which imports the commands.

export type Io = {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly signal: AbortSignal;
  readonly stdout: (text: string) => void;
  readonly stderr: (text: string) => void;
  /** Width of the terminal that stdout is connected to; undefined if it is not a terminal. */
  readonly columns?: () => number | undefined;
  /** Asks the user for one line; undefined if there is no terminal to ask on. */
  readonly ask?: ((question: string) => Promise<string>) | undefined;
};

/** Exit code of wrong arguments (EX_USAGE of sysexits.h). */
export const EXIT_USAGE = 64;

export const EXIT_FAILED = 1;

/** The message of an error, or the thrown value as text. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
