/** A short fuzz of whole repos; a million of them are `npm run test:fuzz`. */
import { expect, test } from 'vitest'
import { fuzzCars, openSources, outcome } from './whole-repos.ts'

test('a spoilt repo ends with a reason, or is the true one all the same', async () => {
  const { made, reasons } = await fuzzCars(await openSources(), { seed: 'short', count: 6_000 })
  expect(made.size).toBe(12)
  for (const reason of ['done', 'truncated', 'malformed-car', 'block-hash', 'missing-block']) {
    expect(reasons.get(reason)).toBeGreaterThan(0)
  }
  for (const reason of ['mst', 'no-root', 'unsupported-version', 'signature']) {
    expect(reasons.has(reason), reason).toBe(true)
  }
})

test('a small repo that is cut at any byte is no repo', async () => {
  for (const source of await openSources()) {
    if (source.car.length > 4_000) continue
    for (let end = 0; end < source.car.length; end += 1) {
      expect(typeof (await outcome(source, source.car.subarray(0, end)))).toBe('string')
    }
  }
})
