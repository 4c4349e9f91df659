/** The comparison with the reference runs by itself, on servers that it starts. */
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    environment: 'node',
    pool: 'forks',
    include: ['test/conformance/conformance.ts'],
    globalSetup: ['test/servers/global.ts'],
    reporters: ['default', './test/summary-reporter.ts'],
    testTimeout: 300_000,
    hookTimeout: 900_000,
    teardownTimeout: 30_000,
  },
})
