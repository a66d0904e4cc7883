/**
 * The report as a reader sees it, in a headless Chromium: light and dark, wide and at 380 px, with text that tries to be HTML. Skipped only where no
 * Chromium can be found: CHROMIUM names one, else `chromium` and the like on the PATH.
 */

import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { pathToFileURL } from "node:url";
import { type Browser, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { JournalRecord } from "../../../src/tune/records.js";
import { inProcess } from "../../cli/in-process.js";
import { HOSTILE, SESSION, sampleSweep, writeJournal } from "../sample-sweep.js";

const NAMES = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];
const folders = (process.env.PATH ?? "").split(delimiter);
const found = process.env.CHROMIUM ?? NAMES.flatMap((name) => folders.map((folder) => join(folder, name))).find((path) => existsSync(path));
if (found === undefined) process.stderr.write(`the report page: found none of ${NAMES.join(", ")}: it is not tested in a browser\n`);

/** A machine that is busy draws late. */
const POLL = { timeout: 20_000 };

let folder = "";
let browser: Browser;
beforeAll(async () => {
  if (found === undefined) return;
  folder = mkdtempSync(join(tmpdir(), "ernie-report-"));
  // The sandbox needs a user who is not root; the only page that it opens is ours.
  browser = await chromium.launch({ executablePath: found, args: ["--no-sandbox"] });
});
afterAll(async () => {
  await browser?.close();
  rmSync(folder, { recursive: true, force: true });
});

interface Opened {
  readonly page: Page;
  /** What went wrong in it, and what it asked the network for. */
  readonly complaints: string[];
}

async function open(
  records: readonly JournalRecord[] = sampleSweep(),
  view: { width?: number; scheme?: "light" | "dark" } = {},
): Promise<Opened> {
  const journal = join(folder, "tune.jsonl");
  const out = join(folder, "report.html");
  writeJournal(journal, records);
  expect(await inProcess("tune", "report", journal, "-o", out)).toMatchObject({
    exitCode: 0,
    stderr: expect.stringMatching(/^wrote .*report\.html/),
  });
  const page = await browser.newPage({ viewport: { width: view.width ?? 1280, height: 900 }, colorScheme: view.scheme ?? "light" });
  const complaints: string[] = [];
  page.on("console", (message) => complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("dialog", (dialog) => complaints.push(dialog.message()));
  page.on("request", (request) => {
    if (request.url() !== pathToFileURL(out).href) complaints.push(request.url());
  });
  await page.goto(pathToFileURL(out).href);
  return { page, complaints };
}

describe.skipIf(found === undefined)("the report in a browser", () => {
  test("draws every trial of an open task, fetches nothing and complains of nothing", async () => {
    const { page, complaints } = await open();
    const task = page.locator("#task-1");
    await task.locator("svg").nth(6).waitFor();
    // All trials, five tunables, roofline.
    expect(await task.locator("svg").count()).toBe(7);
    const trials = task
      .getByRole("img", { name: "Time of each of 90 trials" })
      .or(task.locator('svg[aria-label^="Time of each of 90 trials"]'));
    const timed = sampleSweep()
      .filter((record) => record.kind === "trial")
      .slice(0, 90)
      .filter(({ status }) => status === "ok").length;
    expect(await trials.locator('g[aria-label="dot"]').first().locator("circle, path").count()).toBe(timed);
    expect(await trials.locator('g[aria-label="dot"]').nth(1).locator("circle, path").count()).toBe(90 - timed);
    expect(await page.locator("header table").last().locator("tbody tr").count()).toBe(4);
    expect(await page.locator("header").innerText()).toMatch(/1\.\d\d×\s*geometric mean gain over the defaults/);
    expect(complaints).toEqual([]);
  });

  test("shows text of a journal as text", async () => {
    const { page, complaints } = await open();
    expect(await page.title()).toBe("Sweep on cpu x86-64-v4-bf16");
    expect(await page.locator("img, b:has-text('bold')").count()).toBe(0);
    const shown = await page.locator("#task-1").textContent();
    expect(shown).toContain(`static assertion failed: ${HOSTILE}`);
    expect(complaints).toEqual([]);
  });

  test("a script that got into the page all the same would not run", async () => {
    const { page, complaints } = await open();
    await page.evaluate(() => {
      const script = document.createElement("script");
      script.textContent = "document.title = 'owned'";
      document.body.append(script);
    });
    expect(await page.title()).not.toBe("owned");
    expect(complaints.join()).toMatch(/Content Security Policy/);
  });

  test.each([
    ["light", 1280],
    ["dark", 1280],
    ["light", 380],
    ["dark", 380],
  ] as const)("is readable in %s at %i px", async (scheme, width) => {
    const { page, complaints } = await open(sampleSweep(), { scheme, width });
    await page.locator("#task-1 svg").nth(6).waitFor();
    const seen = await page.evaluate(readability);
    expect(seen.dark).toBe(scheme === "dark");
    expect(seen.scrollWidth).toBeLessThanOrEqual(width);
    expect(seen.cutOff).toEqual([]);
    expect(seen.faint).toEqual([]);
    expect(seen.smallest).toBeGreaterThanOrEqual(12);
    expect(complaints).toEqual([]);
  });

  test("draws what comes into view, into an opened task, over time, and at a new width", async () => {
    const { page, complaints } = await open();
    expect(await page.locator("#task-4 svg").count()).toBe(0);
    await page.locator("#task-4 > summary").click();
    await page.locator("#task-4 svg").nth(6).waitFor();
    const chart = page.locator('#task-4 svg[aria-label^="Time of each"]');
    expect(await chart.textContent()).toContain("trial →");
    await page.getByLabel("time", { exact: true }).check();
    // The choice stands above the tasks: what it scrolled out of view is drawn when it comes back.
    await chart.scrollIntoViewIfNeeded();
    await expect.poll(() => chart.textContent(), POLL).toContain("seconds of the sweep →");
    await page.setViewportSize({ width: 500, height: 900 });
    // The tasks above have grown.
    await chart.scrollIntoViewIfNeeded();
    await expect.poll(async () => Number(await chart.getAttribute("width")), POLL).toBeLessThan(480);
    expect(complaints).toEqual([]);
  });

  test("tells of a trial under the pointer", async () => {
    const { page } = await open();
    const dot = page.locator('#task-1 svg[aria-label^="Time of each"] g[aria-label="dot"]').first().locator("circle, path").first();
    await dot.scrollIntoViewIfNeeded();
    const box = await dot.boundingBox();
    await page.mouse.move((box?.x ?? 0) + 2, (box?.y ?? 0) + 3);
    await expect
      .poll(() => page.locator('#task-1 g[aria-label="tip"]').first().textContent(), POLL)
      .toMatch(/trial 1, after .*µs.*tile_rows=6/);
  });

  test("an empty sweep and one where everything failed are pages too", async () => {
    const empty = await open([SESSION]);
    expect(await empty.page.locator("header").innerText()).toMatch(/0\s*tasks/);
    expect(empty.complaints).toEqual([]);
    const failed = await open(
      sampleSweep(20).flatMap((record): JournalRecord[] =>
        record.kind === "final" ? [] : record.kind === "trial" ? [{ ...record, status: "crash", reason: "SIGILL" }] : [record],
      ),
    );
    await failed.page.locator("#task-1 svg").first().waitFor();
    expect(await failed.page.locator("#task-1").innerText()).toMatch(/No variant was right and timed\.[^]*20 of 20[^]*SIGILL/);
    expect(failed.complaints).toEqual([]);
  });
});

/** Runs in the page: what a reader with tired eyes would stumble over. */
function readability() {
  const rgb = (text: string) => (text.match(/[\d.]+/g) ?? []).map(Number);
  const luminance = (text: string) => {
    const [r = 0, g = 0, b = 0] = rgb(text).map((c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const groundOf = (element: Element): string => {
    for (let at: Element | null = element; at; at = at.parentElement) {
      const ground = getComputedStyle(at).backgroundColor;
      if (rgb(ground)[3] !== 0) return ground;
    }
    return "rgb(255, 255, 255)";
  };
  const faint: string[] = [];
  const cutOff: string[] = [];
  let smallest = Number.POSITIVE_INFINITY;
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes]
      .filter((node) => node.nodeType === 3 && node.textContent?.trim())
      .map(({ textContent }) => textContent);
    const box = element.getBoundingClientRect();
    if (text.length === 0 || box.width <= 1 || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(element.tagName.toUpperCase())) continue;
    const style = getComputedStyle(element);
    smallest = Math.min(smallest, Number.parseFloat(style.fontSize));
    const colour = element instanceof SVGElement ? style.fill : style.color;
    const [low, high] = [luminance(colour), luminance(groundOf(element))].sort((a, b) => a - b) as [number, number];
    // WCAG AA.
    if ((high + 0.05) / (low + 0.05) < 4.5) faint.push(`${text} ${colour} on ${groundOf(element)}`);
    if (box.right > innerWidth + 1 || box.left < -1) cutOff.push(`${text} from ${box.left} to ${box.right}`);
  }
  return { dark: luminance(groundOf(document.body)) < 0.2, scrollWidth: document.documentElement.scrollWidth, faint, cutOff, smallest };
}
