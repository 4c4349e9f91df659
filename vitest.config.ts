/** How the tests run: on real servers that the run starts, two files at a time. */
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    environment: 'node',
    pool: 'forks',
    maxWorkers: 2,
    include: ['**/*.test.ts'],
    exclude: ['**/node_modules/**', 'test/reference/**'],
    globalSetup: ['test/servers/global.ts'],
    reporters: ['default', './test/summary-reporter.ts'],
    // Generous: the tests wait for conditions, never for time, and a machine may be slow.
    testTimeout: 30_000,
    expect: { poll: { timeout: 20_000 } },
    hookTimeout: 60_000,
    teardownTimeout: 30_000,
  },
})
