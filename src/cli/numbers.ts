/** Parsers of option values: what is not a number in range is a usage error with the option's name, never NaN. */

import { InvalidArgumentError } from "commander";

export function integer(min: number, max = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^-?\d+$/.test(text.trim()) || value < min || value > max)
      throw new InvalidArgumentError(`expected an integer from ${min} to ${max}.`);
    return value;
  };
}

export function decimal(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === "" || !Number.isFinite(value) || value < min || value > max)
      throw new InvalidArgumentError(`expected a number from ${min} to ${max}.`);
    return value;
  };
}

/** `1,2,3` as integers. */
export function integerList(min: number, max = 2 ** 31 - 1): (text: string) => number[] {
  const one = integer(min, max);
  return (text) => text.split(",").map((part) => one(part));
}

export function oneOf<T extends string>(...values: readonly T[]): (text: string) => T {
  return (text) => {
    const found = values.find((value) => value === text);
    if (found === undefined) throw new InvalidArgumentError(`expected one of ${values.join(", ")}.`);
    return found;
  };
}
