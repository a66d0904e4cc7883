/** A task of a sweep as a cache file of Kernel Tuner, which its dashboard draws; export-t4.ts has the format that is meant for exchange. */

import { milliseconds, runtimesOf, timeOf, timestampOf } from "./export-t4.js";
import type { SweepRecord } from "./records.js";
import { lastTrials, type SweptTask } from "./sweep.js";
import { configurationOf } from "./task.js";

export interface KernelTunerCache {
  readonly schema_version: "1.0.0";
  readonly device_name: string;
  readonly kernel_name: string;
  readonly problem_size: readonly number[];
  readonly tune_params_keys: readonly string[];
  readonly tune_params: { readonly [name: string]: readonly unknown[] };
  readonly objective: "time";
  /** By the values of a variant, joined by commas in the order of `tune_params_keys`. */
  readonly cache: { readonly [values: string]: { readonly [name: string]: unknown } };
}

export function exportKernelTuner({ task, trials }: SweptTask, sessions: readonly SweepRecord[]): KernelTunerCache {
  const { parameters } = task.space;
  const cache: { [values: string]: { readonly [name: string]: unknown } } = {};
  for (const trial of lastTrials(trials)) {
    const configuration = configurationOf(task.kernel, parameters, trial.variant);
    cache[parameters.map(({ name }) => configuration[name]).join(",")] = {
      ...configuration,
      time: timeOf(trial),
      times: runtimesOf(trial),
      compile_time: milliseconds(trial.compileSeconds ?? 0),
      verification_time: milliseconds(trial.checkSeconds ?? 0),
      benchmark_time: 0,
      strategy_time: 0,
      framework_time: 0,
      // The format wants one.
      timestamp: timestampOf(trial, sessions) ?? "1970-01-01 00:00:00.000+00:00",
    };
  }
  return {
    schema_version: "1.0.0",
    device_name: sessions[0]?.machine.gpu ?? sessions[0]?.machine.cpu ?? task.device,
    kernel_name: task.task,
    problem_size: [...Object.values(task.problem).filter((value) => typeof value === "number"), task.rows],
    tune_params_keys: parameters.map(({ name }) => name),
    tune_params: Object.fromEntries(parameters.map(({ name, values }) => [name, values])),
    objective: "time",
    cache,
  };
}
