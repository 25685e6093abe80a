// The errno name of a failed system call, for callers that branch on it.

/** Errno name such as "EBUSY"; undefined if the error is not from a system call. */
export function errnoOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}

/** The value, or the fallback if the call fails with one of the codes; rethrows other errors. */
export async function unlessErrno<T, F>(
  call: Promise<T>,
  codes: readonly string[],
  fallback: F,
): Promise<T | F> {
  try {
    return await call;
  } catch (error) {
    const code = errnoOf(error);
    if (code !== undefined && codes.includes(code)) return fallback;
    throw error;
  }
}
