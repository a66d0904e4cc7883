import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16, roundToBf16, roundToF16, widenBf16, widenF16 } from "../../src/weights/half.js";

const every16 = Uint16Array.from({ length: 65536 }, (_, i) => i);

describe("bf16 and f16", () => {
  it("come back from f32 unchanged, every one of them", () => {
    for (const [widen, narrow] of [
      [bf16ToF32, f32ToBf16],
      [f16ToF32, f32ToF16],
    ] as const) {
      for (let half = 0; half < 65536; half++) {
        const value = widen(half);
        if (Number.isNaN(value)) expect(widen(narrow(value))).toBeNaN();
        else if (narrow(value) !== half) expect(narrow(value)).toBe(half);
      }
    }
  });

  it.each([
    [1, 0x3f80, 0x3c00],
    [-2, 0xc000, 0xc000],
    [-0, 0x8000, 0x8000],
    [1 + 2 ** -8, 0x3f80, 0x3c04], // bf16: a tie that goes down to the even one
    [1 + 3 * 2 ** -8, 0x3f82, 0x3c0c], // bf16: a tie that goes up
    [1 + 2 ** -11, 0x3f80, 0x3c00],
    [1 + 3 * 2 ** -11, 0x3f80, 0x3c02],
    [65504, 0x4780, 0x7bff],
    [65519, 0x4780, 0x7bff],
    [65520, 0x4780, 0x7c00],
    [3.4e38, 0x7f80, 0x7c00], // above the largest bf16 by more than half a step
    [Number.POSITIVE_INFINITY, 0x7f80, 0x7c00],
    [2 ** -24, 0x3380, 0x0001],
    [2 ** -25, 0x3300, 0x0000],
    [3 * 2 ** -26, 0x3340, 0x0001],
    [2 ** -14, 0x3880, 0x0400],
    [2 ** -14 - 2 ** -25, 0x3880, 0x0400], // f16: rounds up to the smallest normal
  ])("round %d to the nearest, ties to even", (value, bf16, f16) => {
    expect([f32ToBf16(value), f32ToF16(value)]).toEqual([bf16, f16]);
  });

  it("are the nearest of their neighbours", () => {
    fc.assert(
      fc.property(fc.float({ noNaN: true, noDefaultInfinity: true }), (value) => {
        for (const [widen, narrow] of [
          [bf16ToF32, f32ToBf16],
          [f16ToF32, f32ToF16],
        ] as const) {
          const half = narrow(value);
          const found = widen(half);
          if (!Number.isFinite(found)) continue;
          const error = Math.abs(found - value);
          for (const neighbour of [half - 1, half + 1]) {
            const other = widen(neighbour & 0xffff);
            if (Number.isFinite(other)) expect(Math.abs(other - value)).toBeGreaterThanOrEqual(error);
          }
        }
      }),
    );
  });

  it("keep a NaN whose payload lies in the bits that go", () => {
    const sneaky = new Float32Array(new Uint32Array([0x7f800001]).buffer);
    expect(bf16ToF32(roundToBf16(sneaky)[0] as number)).toBeNaN();
    expect(f16ToF32(roundToF16(sneaky)[0] as number)).toBeNaN();
  });

  it("convert arrays as they convert numbers", () => {
    expect(widenBf16(every16)).toEqual(Float32Array.from(every16, bf16ToF32));
    expect(widenF16(every16)).toEqual(Float32Array.from(every16, f16ToF32));
    const values = Float32Array.from({ length: 1000 }, (_, i) => Math.sin(i) * 2 ** ((i % 60) - 30));
    expect(roundToBf16(values)).toEqual(Uint16Array.from(values, f32ToBf16));
    expect(roundToF16(values)).toEqual(Uint16Array.from(values, f32ToF16));
  });
});
