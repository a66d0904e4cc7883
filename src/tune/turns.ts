/**
 * Who may use the machine: one measurement at a time, in the order of asking, and beside it compilers on the cores that it leaves free; where it
 * leaves none, the two take turns. Measurements go first, so that a long row of compilations never keeps one waiting.
 */

import { availableParallelism } from "node:os";

export class Turns {
  #compiling = 0;
  #measuring = false;
  readonly #compilations: (() => void)[] = [];
  readonly #measurements: (() => void)[] = [];

  /** `beside`: compilers that may run during a measurement. */
  constructor(
    private readonly beside: number,
    private readonly compilers = availableParallelism(),
  ) {}

  async compile<T>(work: () => Promise<T>): Promise<T> {
    await new Promise<void>((resolve) => {
      this.#compilations.push(resolve);
      this.#next();
    });
    try {
      return await work();
    } finally {
      this.#compiling--;
      this.#next();
    }
  }

  async measure<T>(work: () => Promise<T>): Promise<T> {
    await new Promise<void>((resolve) => {
      this.#measurements.push(resolve);
      this.#next();
    });
    try {
      return await work();
    } finally {
      this.#measuring = false;
      this.#next();
    }
  }

  #next(): void {
    if (!this.#measuring && this.#compiling <= this.beside && this.#measurements.length > 0) {
      this.#measuring = true;
      this.#measurements.shift()?.();
    }
    const most = this.#measuring || this.#measurements.length > 0 ? this.beside : this.compilers;
    while (this.#compiling < most && this.#compilations.length > 0) {
      this.#compiling++;
      this.#compilations.shift()?.();
    }
  }
}
