/** The lane of the long chain of kills runs by itself, on a Redis that it starts. */
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    environment: 'node',
    pool: 'forks',
    include: ['test/ingester-faults/hundred.ts'],
    globalSetup: ['test/servers/global.ts'],
    reporters: ['default', './test/summary-reporter.ts'],
    teardownTimeout: 30_000,
  },
})
