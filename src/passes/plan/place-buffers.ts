/**
 * Gives offsets in one arena to buffers whose lifetimes are known. Pure arithmetic: what a buffer is for and when it lives is plan-memory's.
 *
 * Largest first, each into the tightest gap among the buffers that live at the same time. For the chains of a transformer this reaches the
 * lower bound (the largest sum of what lives at once) or comes close, and it is deterministic: ties go by the order given.
 */

/** Every buffer starts at a cache line: no two threads' buffers share one, and vector loads are aligned. */
export const BUFFER_ALIGN = 64;

export interface Lifetime {
  readonly bytes: number;
  /** First and last step at which the contents matter, inclusive. */
  readonly first: number;
  readonly last: number;
}

export interface Placement {
  /** One offset for each lifetime, in order. */
  readonly offsets: readonly number[];
  readonly bytes: number;
}

export function alignUp(value: number, align: number): number {
  return Math.ceil(value / align) * align;
}

export function placeBuffers(lifetimes: readonly Lifetime[]): Placement {
  const offsets: number[] = new Array(lifetimes.length).fill(0);
  const order = lifetimes.map((_, i) => i).sort((a, b) => (lifetimes[b] as Lifetime).bytes - (lifetimes[a] as Lifetime).bytes || a - b);
  const placed: number[] = [];
  let total = 0;
  for (const index of order) {
    const item = lifetimes[index] as Lifetime;
    const size = alignUp(item.bytes, BUFFER_ALIGN);
    const neighbours = placed
      .filter((other) => overlaps(item, lifetimes[other] as Lifetime))
      .map((other) => ({
        start: offsets[other] as number,
        end: (offsets[other] as number) + alignUp((lifetimes[other] as Lifetime).bytes, BUFFER_ALIGN),
      }))
      .sort((a, b) => a.start - b.start);
    let end = 0;
    let best = -1;
    let bestGap = Number.POSITIVE_INFINITY;
    for (const { start, end: neighbourEnd } of neighbours) {
      const gap = start - end;
      if (gap >= size && gap < bestGap) {
        best = end;
        bestGap = gap;
      }
      end = Math.max(end, neighbourEnd);
    }
    const offset = best >= 0 ? best : end;
    offsets[index] = offset;
    total = Math.max(total, offset + size);
    placed.push(index);
  }
  return { offsets, bytes: total };
}

function overlaps(a: Lifetime, b: Lifetime): boolean {
  return a.first <= b.last && b.first <= a.last;
}

/** The most that lives at once: no placement needs less. */
export function peakBytes(lifetimes: readonly Lifetime[]): number {
  let peak = 0;
  for (const { first } of lifetimes) {
    let live = 0;
    for (const other of lifetimes) if (other.first <= first && first <= other.last) live += alignUp(other.bytes, BUFFER_ALIGN);
    peak = Math.max(peak, live);
  }
  return peak;
}
