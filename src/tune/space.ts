/**
 * The configurations that a sweep may choose from: named parameters, each with its values, less what the constraint forbids. A configuration is
 * named by its index in the enumeration; as codes it is the positions of its values in their parameters. Nothing here knows what a configuration
 * costs, nor how a kernel is made of one.
 */

import { Diagnostic } from "../diagnostics.js";

export type Value = number | string | boolean;

export interface Parameter {
  readonly name: string;
  /** No value twice. Numbers ascend, so that positions next to each other are values next to each other. */
  readonly values: readonly Value[];
  /** Whether the order of the values means something; otherwise each is as far from one as from any other. */
  readonly ordered: boolean;
}

export type Configuration = { readonly [name: string]: Value };

/** Above this a space is refused: strategies hold an entry for every configuration. */
export const MAX_CONFIGURATIONS = 2 ** 21;
/** Combinations that are tried against the constraint. */
const MAX_COMBINATIONS = 2 ** 28;

/** A parameter of these values, in the order that its kind has: numbers ascend, all else stands as given. */
export function parameter(name: string, values: readonly Value[]): Parameter {
  const distinct = [...new Set(values)];
  if (distinct.length === 0) throw empty(name, "found no value, expected at least one");
  if (distinct.every((value) => typeof value === "number"))
    return { name, values: distinct.sort((a, b) => (a as number) - (b as number)), ordered: true };
  return { name, values: distinct, ordered: distinct.length <= 2 };
}

export class Space {
  readonly parameters: readonly Parameter[];
  readonly size: number;
  /** Number of parameters. */
  readonly width: number;
  /** Of configuration `i`, parameter `p`: `codes[i * width + p]`. */
  readonly codes: Uint16Array;
  readonly #byKey: ReadonlyMap<number, number>;
  readonly #strides: readonly number[];

  private constructor(parameters: readonly Parameter[], codes: Uint16Array) {
    this.parameters = parameters;
    this.width = parameters.length;
    this.codes = codes;
    this.size = codes.length / this.width;
    const strides: number[] = [];
    let stride = 1;
    for (const { values } of parameters) {
      strides.push(stride);
      stride *= values.length;
    }
    if (stride > Number.MAX_SAFE_INTEGER)
      throw new Diagnostic({ code: "tune-space-too-large", message: `found ${stride} combinations, expected fewer than 2^53` });
    this.#strides = strides;
    const byKey = new Map<number, number>();
    for (let i = 0; i < this.size; i++) byKey.set(this.#key(i), i);
    this.#byKey = byKey;
  }

  /** Every combination that the constraint allows, the last parameter turning fastest. */
  static enumerate(parameters: readonly Parameter[], allowed: (configuration: Configuration) => boolean = () => true): Space {
    checkNames(parameters);
    const combinations = parameters.reduce((product, { values }) => product * values.length, 1);
    if (combinations > MAX_COMBINATIONS)
      throw new Diagnostic({
        code: "tune-space-too-large",
        message: `found ${combinations} combinations, expected at most ${MAX_COMBINATIONS}`,
        place: parameters.map(({ name }) => name).join(", "),
      });
    const found: number[] = [];
    const codes = parameters.map(() => 0);
    for (let i = 0; i < combinations; i++) {
      let rest = i;
      for (let p = parameters.length - 1; p >= 0; p--) {
        const count = (parameters[p] as Parameter).values.length;
        codes[p] = rest % count;
        rest = Math.floor(rest / count);
      }
      if (allowed(decode(parameters, codes))) for (const code of codes) found.push(code);
    }
    if (found.length === 0) throw empty(parameters.map(({ name }) => name).join(", "), "the constraint leaves no configuration");
    return Space.#checked(parameters, Uint16Array.from(found));
  }

  /** The listed configurations and no others, in the order given; each must name every parameter, and none may come twice. */
  static of(parameters: readonly Parameter[], configurations: readonly Configuration[]): Space {
    return Space.ofRows(
      parameters,
      configurations.map((configuration) => parameters.map(({ name }) => configuration[name] as Value)),
    );
  }

  /** The same, each as its values in the order of the parameters. */
  static ofRows(parameters: readonly Parameter[], rows: readonly (readonly Value[])[]): Space {
    checkNames(parameters);
    if (rows.length === 0) throw empty("configurations", "found none, expected at least one");
    const positions = parameters.map(({ values }) => new Map(values.map((value, code) => [value, code])));
    const codes = new Uint16Array(rows.length * parameters.length);
    let at = 0;
    for (const row of rows) {
      parameters.forEach(({ name }, p) => {
        const code = positions[p]?.get(row[p] as Value);
        if (code === undefined)
          throw new Diagnostic({ code: "tune-space-value", message: `found ${JSON.stringify(row[p])}, no value of ${name}` });
        codes[at++] = code;
      });
    }
    return Space.#checked(parameters, codes);
  }

  static #checked(parameters: readonly Parameter[], codes: Uint16Array): Space {
    const size = codes.length / parameters.length;
    if (size > MAX_CONFIGURATIONS)
      throw new Diagnostic({
        code: "tune-space-too-large",
        message: `found ${size} configurations, expected at most ${MAX_CONFIGURATIONS}`,
      });
    const space = new Space(parameters, codes);
    if (space.#byKey.size !== size)
      throw new Diagnostic({
        code: "tune-space-twice",
        message: `found ${size - space.#byKey.size} configurations twice, expected each once`,
      });
    return space;
  }

  code(index: number, p: number): number {
    return this.codes[index * this.width + p] as number;
  }

  value(index: number, p: number): Value {
    return (this.parameters[p] as Parameter).values[this.code(index, p)] as Value;
  }

  configuration(index: number): Configuration {
    return decode(this.parameters, this.codes.subarray(index * this.width, (index + 1) * this.width));
  }

  /** The index of the configuration with these codes, or undefined where the constraint forbids it. */
  find(codes: ArrayLike<number>): number | undefined {
    let key = 0;
    for (let p = 0; p < this.width; p++) key += (codes[p] as number) * (this.#strides[p] as number);
    return this.#byKey.get(key);
  }

  /** The index of this configuration, or undefined where a value is none of its parameter's or the constraint forbids it. */
  indexOf(configuration: Configuration): number | undefined {
    const codes = this.parameters.map(({ name, values }) => values.indexOf(configuration[name] as Value));
    return codes.includes(-1) ? undefined : this.find(codes);
  }

  /** All that differ in one parameter, whatever its value. */
  neighbours(index: number): number[] {
    return this.#oneChanged(index, (p, own) => {
      const codes: number[] = [];
      for (let code = 0; code < (this.parameters[p] as Parameter).values.length; code++) if (code !== own) codes.push(code);
      return [codes];
    });
  }

  /**
   * All that differ in one parameter by one step: for an ordered one the next allowed value up and the next down, for a categorical one any
   * other. A value that the constraint forbids is stepped over, or a step up from 32 would end at a forbidden 48.
   */
  adjacent(index: number): number[] {
    return this.#oneChanged(
      index,
      (p, own) => {
        const { values, ordered } = this.parameters[p] as Parameter;
        const up: number[] = [];
        const down: number[] = [];
        for (let code = own + 1; code < values.length; code++) up.push(code);
        for (let code = own - 1; code >= 0; code--) down.push(code);
        return ordered ? [up, down] : [...up, ...down].map((code) => [code]);
      },
      true,
    );
  }

  /** For each parameter, the codes that `choices` lists, all of them or the first allowed one of every list. */
  #oneChanged(index: number, choices: (p: number, own: number) => readonly (readonly number[])[], onlyFirst = false): number[] {
    const key = this.#key(index);
    const found: number[] = [];
    for (let p = 0; p < this.width; p++) {
      const own = this.code(index, p);
      for (const list of choices(p, own)) {
        for (const code of list) {
          const other = this.#byKey.get(key + (code - own) * (this.#strides[p] as number));
          if (other === undefined) continue;
          found.push(other);
          if (onlyFirst) break;
        }
      }
    }
    return found;
  }

  #key(index: number): number {
    let key = 0;
    for (let p = 0; p < this.width; p++) key += this.code(index, p) * (this.#strides[p] as number);
    return key;
  }
}

function decode(parameters: readonly Parameter[], codes: ArrayLike<number>): Configuration {
  const configuration: { [name: string]: Value } = Object.create(null);
  parameters.forEach(({ name, values }, p) => {
    configuration[name] = values[codes[p] as number] as Value;
  });
  return configuration;
}

function checkNames(parameters: readonly Parameter[]): void {
  if (parameters.length === 0) throw empty("parameters", "found none, expected at least one");
  const names = new Set<string>();
  for (const { name } of parameters) {
    if (names.has(name)) throw new Diagnostic({ code: "tune-space-twice", message: `found the parameter ${name} twice, expected it once` });
    names.add(name);
  }
}

function empty(place: string, message: string): Diagnostic {
  return new Diagnostic({ code: "tune-space-empty", message, place, hint: "a sweep needs at least one configuration to measure" });
}
