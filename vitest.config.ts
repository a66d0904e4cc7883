import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // Native code is compiled and models are built in tests: minutes on a cold cache, seconds on a warm one.
    testTimeout: 240_000,
    hookTimeout: 480_000,
    maxWorkers: 2,
  },
});
