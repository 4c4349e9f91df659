/** A short part of the chains of kills, which a seed chooses; `npm run test:crash` runs all of it. */
import { expect, test } from 'vitest'
import { crashPoints } from '../../shared/crash-point.ts'
import { createRandom } from '../../simulator/random.ts'
import { crash } from './run.ts'
import { type Target, targets } from './targets.ts'

const seed = 'sluice'
const share = { ingester: 4, indexer: 8, backfiller: 5 }

test('every crash point is a target', () => {
  expect(new Set(targets.map(({ point }) => point))).toEqual(new Set(Object.keys(crashPoints)))
})

test('kills at some crash points lose nothing and change no row', {
  timeout: 120_000,
}, async () => {
  await crash(someTargets(), 1, { seed, rate: 10, accounts: 12, older: 4, history: 30 })
})

/** A few quick ones for each worker. */
function someTargets(): Target[] {
  const random = createRandom(seed).fork('choice')
  return Object.entries(share).flatMap(([service, count]) => {
    const left = targets.filter((target) => target.service === service && !target.slow)
    while (left.length > count) left.splice(random.below(left.length), 1)
    return left
  })
}
