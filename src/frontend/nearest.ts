/** "Did you mean": the name of a list that is the fewest edits away. */

/**
 * The nearest of `names`, if it is near enough to be meant: at most a third of the letters differ. Case, `-`, `_` and `.` don't count. A start that
 * only one name has stands for it.
 */
export function nearest(found: string, names: Iterable<string>): string | undefined {
  const wanted = fold(found);
  // A name from a hostile file may be endless; nothing that long is a slip of ours.
  if (wanted.length > 200) return undefined;
  const [longer, another] = [...names].filter((name) => wanted.length >= 4 && fold(name).startsWith(wanted));
  if (longer !== undefined && another === undefined) return longer;
  let best: string | undefined;
  let bestDistance = Number.POSITIVE_INFINITY;
  for (const name of names) {
    const folded = fold(name);
    const limit = Math.max(1, Math.floor(Math.max(folded.length, wanted.length) / 3));
    const distance = editDistance(wanted, folded);
    if (distance <= limit && distance < bestDistance) [best, bestDistance] = [name, distance];
  }
  return best;
}

function fold(name: string): string {
  return name.toLowerCase().replace(/[-_.\s]/g, "");
}

/** Edits are a letter replaced, left out, put in, or changed with its neighbour (optimal string alignment); one row of the table at a time. */
function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = (row[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1);
      const turned =
        i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1] ? (before[j - 2] as number) + 1 : Number.POSITIVE_INFINITY;
      next.push(Math.min(replaced, turned, (row[j] as number) + 1, (next[j - 1] as number) + 1));
    }
    [before, row] = [row, next];
  }
  return row[b.length] as number;
}
