/** Who uses the machine when: one measurement at a time, and compilers beside it only where there are cores for them. */

import { describe, expect, it } from "vitest";
import { Turns } from "../../src/tune/turns.js";

async function trace(
  beside: number,
): Promise<{ readonly most: number; readonly together: number; readonly measuring: number; readonly order: readonly number[] }> {
  const turns = new Turns(beside, 3);
  let [compiling, measuring, most, together, both] = [0, 0, 0, 0, 0];
  const order: number[] = [];
  const pause = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 2));
  const watch = (): void => {
    most = Math.max(most, compiling);
    both = Math.max(both, measuring);
    if (measuring > 0) together = Math.max(together, compiling);
  };
  const compile = () =>
    turns.compile(async () => {
      compiling++;
      watch();
      await pause();
      compiling--;
    });
  const measure = (i: number) =>
    turns.measure(async () => {
      measuring++;
      order.push(i);
      watch();
      await pause();
      watch();
      measuring--;
    });
  await Promise.all(Array.from({ length: 20 }, (_, i) => [compile(), compile(), measure(i)]).flat());
  return { most, together, measuring: both, order };
}

describe("turns", () => {
  it.each([0, 1, 2])("with %s cores left by a measurement", async (beside) => {
    const { most, together, measuring, order } = await trace(beside);
    expect([most <= 3, together <= beside, measuring]).toEqual([true, true, 1]);
    expect(order).toEqual(Array.from({ length: 20 }, (_, i) => i));
  });

  it("go on after a failure", async () => {
    const turns = new Turns(0, 1);
    await expect(turns.compile(() => Promise.reject(new Error("no")))).rejects.toThrow("no");
    await expect(turns.measure(() => Promise.reject(new Error("no")))).rejects.toThrow("no");
    expect(await turns.measure(() => Promise.resolve(1))).toBe(1);
  });
});
