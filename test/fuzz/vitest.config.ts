/** The lane of the long fuzz runs by itself. */
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    environment: 'node',
    pool: 'forks',
    include: ['test/fuzz/million.ts', 'test/fuzz/million-cars.ts'],
    reporters: ['default', './test/summary-reporter.ts'],
  },
})
