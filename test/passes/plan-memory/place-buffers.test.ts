import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { alignUp, BUFFER_ALIGN, type Lifetime, peakBytes, placeBuffers } from "../../../src/passes/plan/place-buffers.js";

const lifetimes = fc.array(
  fc
    .record({ bytes: fc.integer({ min: 1, max: 5000 }), first: fc.integer({ min: 0, max: 40 }), length: fc.integer({ min: 0, max: 10 }) })
    .map(({ bytes, first, length }): Lifetime => ({ bytes, first, last: first + length })),
  { maxLength: 60 },
);

describe("placeBuffers", () => {
  it("lets nothing that lives at once overlap, and needs no more than is used", () => {
    fc.assert(
      fc.property(lifetimes, (items) => {
        const { offsets, bytes } = placeBuffers(items);
        let end = 0;
        for (const [i, a] of items.entries()) {
          const start = offsets[i] as number;
          expect(start % BUFFER_ALIGN).toBe(0);
          end = Math.max(end, start + alignUp(a.bytes, BUFFER_ALIGN));
          for (const [j, b] of items.slice(0, i).entries()) {
            const other = offsets[j] as number;
            const together = a.first <= b.last && b.first <= a.last;
            if (together) expect(start + a.bytes <= other || other + b.bytes <= start).toBe(true);
          }
        }
        expect(bytes).toBe(end);
        expect(bytes).toBeGreaterThanOrEqual(peakBytes(items));
        expect(placeBuffers(items)).toEqual({ offsets, bytes });
      }),
    );
  });

  it("reaches the lower bound on a chain of layers", () => {
    // residual, norm, qkv, q, attention, sum; again and again
    const items: Lifetime[] = [];
    for (let layer = 0; layer < 12; layer++) {
      const at = layer * 5;
      const sizes = [4096, 2048, 5120, 4096, 4096];
      for (const [i, bytes] of sizes.entries()) items.push({ bytes, first: at + i, last: at + i + (i === 0 ? 4 : 1) });
    }
    expect(placeBuffers(items).bytes).toBe(peakBytes(items));
  });
});
