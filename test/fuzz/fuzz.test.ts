/** A short, seeded part of the fuzz; `npm run test:fuzz` is the million. */
import { beforeAll, expect, test } from 'vitest'
import { type Corpus, openCorpus } from './corpus.ts'
import { allReasons, fuzz } from './fuzz.ts'

let corpus: Corpus
beforeAll(async () => {
  corpus = await openCorpus()
})

test('spoilt frames end nothing, add nothing to the truth, and meet every reason for refusal', {
  timeout: 60_000,
}, async () => {
  const { reasons, whole, events } = await fuzz(corpus, { seed: 'sluice', count: 6_000 })
  expect(allReasons.filter((reason) => !reasons.has(reason))).toEqual([])
  expect([...reasons.keys()].filter((reason) => !allReasons.includes(reason))).toEqual([])
  expect(whole).toBeGreaterThan(100)
  expect(events).toBeGreaterThan(whole)
})

test('without verification the same frames are found to add to the truth', async () => {
  const unverified = fuzz(corpus, { seed: 'sluice', count: 6_000, mode: 'none' })
  await expect(unverified).rejects.toThrow(/that nobody made|that nobody wrote|other ops|not so/)
})
