// The errno of a failed system call: the kernel's own words, which callers branch on.

/** Code such as "EBUSY", undefined for what is no failed system call. */
export function errnoOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}

/** The value, or the fallback if the call failed with one of the codes; anything else is thrown. */
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
