/** A journal on a terminal: what a sweep has brought so far, task by task. */

import { open } from "node:fs/promises";
import { change, duration, gain, ofLimit, time } from "../tune/format.js";
import type { ReportData, ReportTask, ReportTrial } from "../tune/report-data.js";

const HEAD = '{"sum":"';

/** By its first bytes: tables and journals may have any name. What cannot be read is left to whoever reads it next, who says why. */
export async function isJournal(path: string): Promise<boolean> {
  const file = await open(path, "r").catch(() => undefined);
  try {
    const { buffer } = (await file?.read(Buffer.alloc(HEAD.length), 0, HEAD.length, 0)) ?? {};
    return buffer?.toString() === HEAD;
  } catch {
    return false;
  } finally {
    await file?.close();
  }
}

export function journalLines(data: ReportData): string[] {
  const { device, tasks, trials, failed, seconds, warnings } = data;
  return [
    `${device}: ${tasks.length} tasks, ${trials} trials (${failed} failed), ${duration(seconds)}`,
    ...warnings,
    ...tasks.flatMap(taskLines),
    ...data.programs.map(({ name, defaultMs, chosenMs }) => `${name}: ${time(defaultMs)} of swept kernels a step, now ${time(chosenMs)}`),
    ...(data.gain === null ? [] : [`${data.gain.toFixed(3)} times as fast as the defaults (geometric mean)`]),
  ].map(printable);
}

function taskLines(task: ReportTask): string[] {
  const at = (index: number | null): ReportTrial | undefined => (index === null ? undefined : task.trials[index]);
  const [own, chosen] = [at(task.defaultTrial), at(task.chosenTrial)];
  const shown = (trial: ReportTrial | undefined) => (trial?.ms === undefined ? "-" : time(trial.ms));
  const gained = task.gain ? gain(task.gain) : "-";
  return [
    task.title,
    `  ${task.trials.length} of ${task.size}  ${shown(own)} -> ${shown(chosen)}  ${gained}  ${ofLimit(task, chosen)}  ${change(task)}`,
    ...failureLines(task),
  ];
}

function failureLines({ trials }: ReportTask): string[] {
  const failed = trials.filter(({ status }) => status !== "ok");
  if (failed.length === 0) return [];
  const counts = new Map<string, number>();
  for (const { status } of failed) counts.set(status, (counts.get(status) ?? 0) + 1);
  return [`  failed: ${[...counts].map(([status, count]) => `${count} ${status}`).join(", ")}`];
}

/** What a journal holds can be anything; a terminal obeys some of it. */
function printable(line: string): string {
  return line.replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, (c) => `\\u${(c.codePointAt(0) as number).toString(16).padStart(4, "0")}`);
}
