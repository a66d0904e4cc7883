/** Whether two packages of one model answer alike: what they generated greedily, and how probable they held it. */

/** What runtime/tools/tune_step.mjs writes. */
export interface Answers {
  /** Standard deviation of the logits of a row. */
  readonly spread: number;
  readonly answers: readonly {
    readonly ids: readonly number[];
    /** Of each token, the most probable ones and the logarithms of their probabilities. */
    readonly tops: readonly (readonly (readonly [id: number, logprob: number])[])[];
  }[];
}

export interface Likeness {
  /** Sums are made in one order, so every bit is the same. */
  readonly exact: boolean;
  /** Where another expert is chosen, logits move by any amount: few tokens may. */
  readonly experts: boolean;
}

/** Of the spread: squares of what roundings to bf16 move in a logit, in the mean; and what they may move where another token was chosen. */
const LIMIT = 5e-4;
const CLOSE = 0.05;

/** Why `found` cannot be of the model that answered `wanted`, or undefined. */
export function answersDiffer(found: Answers, wanted: Answers, { exact, experts }: Likeness): string | undefined {
  // JSON has no NaN: it comes as null, which counts as 0.
  const numbers = [wanted, found].flatMap(({ spread, answers }) => [spread, ...answers.flatMap(({ tops }) => tops.flat(2))]);
  if (!numbers.every((number) => Number.isFinite(number))) return "answers hold what is no number";
  if (exact)
    return JSON.stringify(found.answers) === JSON.stringify(wanted.answers)
      ? undefined
      : "differs in bits from the default, whose sums are made in the same order";
  const squares: number[] = [];
  for (const [i, { ids, tops }] of wanted.answers.entries()) {
    const other = found.answers[i];
    if (!other || other.ids.length !== ids.length || other.tops.length !== tops.length) return `answer ${i} has another length`;
    for (const [t, top] of tops.entries()) {
      const theirs = new Map(other.tops[t]);
      for (const [id, logprob] of top) {
        const close = theirs.get(id);
        if (close !== undefined) squares.push(((close - logprob) / wanted.spread) ** 2);
      }
      if (ids[t] === other.ids[t]) continue;
      // What follows another token is another text.
      const [own, chosen] = [ids[t], other.ids[t]].map((id) => top.find((entry) => entry[0] === id)?.[1] ?? Number.NEGATIVE_INFINITY) as [
        number,
        number,
      ];
      const off = Math.abs(own - chosen) / wanted.spread;
      if (!experts && !(off <= CLOSE)) return `token ${t} of answer ${i} differs, ${off.toFixed(3)} of the logits' spread apart`;
      break;
    }
  }
  squares.sort((a, b) => a - b);
  const typical = experts ? squares[squares.length >> 1] : squares.reduce((sum, square) => sum + square, 0) / squares.length;
  if (typical !== undefined && typical <= LIMIT) return undefined;
  return `logits differ by ${typical === undefined ? "all" : typical.toExponential(1)} of their spread, expected at most ${LIMIT}`;
}
