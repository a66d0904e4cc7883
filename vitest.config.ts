import { defineConfig } from "vitest/config";

/** REPORT names the JSON report that .ci/run adds up; the plain run is `tests`. */
const report = process.env.REPORT ?? "tests";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // Native code is compiled and models are built in tests: minutes on a cold cache, seconds on a warm one.
    testTimeout: 240_000,
    hookTimeout: 480_000,
    maxWorkers: 2,
    reporters: process.env.CI ? ["default", ["json", { outputFile: `build/reports/${report}.json` }]] : ["default"],
  },
});
