/** The lane with a Docker engine runs by itself; one file at a time. */
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    environment: 'node',
    pool: 'forks',
    fileParallelism: false,
    include: ['test/deploy/*.lane.ts'],
    globalSetup: ['test/deploy/global.ts'],
    reporters: ['default', './test/summary-reporter.ts'],
    testTimeout: 10 * 60_000,
    expect: { poll: { timeout: 60_000 } },
    hookTimeout: 10 * 60_000,
    teardownTimeout: 60_000,
  },
})
