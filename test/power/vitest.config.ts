/** The lane in which the power fails runs by itself, on servers that it starts. */
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    environment: 'node',
    pool: 'forks',
    include: ['test/power/power-loss.ts'],
    globalSetup: ['test/servers/global.ts'],
    reporters: ['default', './test/summary-reporter.ts'],
    teardownTimeout: 30_000,
  },
})
