/** The takeover runs by itself, on servers that it starts. */
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    environment: 'node',
    pool: 'forks',
    include: ['test/takeover/takeover.ts'],
    globalSetup: ['test/servers/global.ts'],
    reporters: ['default', './test/summary-reporter.ts'],
    hookTimeout: 60_000,
    teardownTimeout: 30_000,
  },
})
