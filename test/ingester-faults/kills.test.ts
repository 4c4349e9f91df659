/** A short part of the chain of kills; `npm run test:kills` is the hundred. */
import { expect, test } from 'vitest'
import { killChain } from './kills.ts'

test('kills of the ingester around the append lose nothing and repeat nothing', {
  timeout: 180_000,
}, async () => {
  const { hits, entries } = await killChain('sluice', 6)
  expect([...hits.values()].reduce((sum, count) => sum + count, 0)).toBe(6)
  expect(entries).toBeGreaterThan(50)
})
