/**
 * The ids of recent answers by their text. In the next turn of a chat an answer comes back as text, and encoding it again can give other ids
 * than the model wrote ("Assistant: " ends in a space that joins the next word): then the cache would miss from there on.
 */

const MOST_ANSWERS = 64;

export class Answers {
  /** In the order of use: the first entry is the longest unused. */
  readonly #ids = new Map<string, Int32Array>();

  /** `ids` must decode to `text`. */
  remember(text: string, ids: Int32Array): void {
    this.#ids.delete(text);
    this.#ids.set(text, ids);
    for (const oldest of this.#ids.keys()) {
      if (this.#ids.size <= MOST_ANSWERS) break;
      this.#ids.delete(oldest);
    }
  }

  find(text: string): Int32Array | undefined {
    const ids = this.#ids.get(text);
    if (ids) this.remember(text, ids);
    return ids;
  }
}
