/** Runs one compiler a unit, all side by side; how many at once is the process runner's business. */

/** Results in the order of the units. The first failure ends what has not begun, and is the one that is thrown. */
export async function compileEach<U, R>(
  units: readonly U[],
  outer: AbortSignal | undefined,
  compile: (unit: U, signal: AbortSignal) => Promise<R>,
): Promise<readonly R[]> {
  const failure = new AbortController();
  const signal = outer ? AbortSignal.any([outer, failure.signal]) : failure.signal;
  const results = await Promise.allSettled(
    units.map(async (unit) => {
      try {
        return await compile(unit, signal);
      } catch (error) {
        failure.abort(error);
        throw error;
      }
    }),
  );
  outer?.throwIfAborted();
  return results.map((result) => {
    // The units that were not begun fail with the reason of the first.
    if (result.status === "rejected") throw failure.signal.reason;
    return result.value;
  });
}
