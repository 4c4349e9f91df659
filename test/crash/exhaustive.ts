/**
 * Every crash point of every worker, ten times each, in chains without rest: `npm run test:crash`; those of the life of a
 * batch, a hundred times each, in the indexers alone: `npm run test:chain`.
 */
import { expect, test } from 'vitest'
import { env } from '../env.ts'
import { crash } from './run.ts'
import { targets } from './targets.ts'

/** Fewer for a look: `CRASH_TIMES=2 npm run test:crash`. */
const times = Number(env['CRASH_TIMES'] ?? 10)
/** One worker, and some points, where these are given. */
const worker = env['CRASH_WORKER']
const points = env['CRASH_POINTS']?.split(',')
const chosen = targets.filter(
  ({ service, point }) => (worker ?? service) === service && (points?.includes(point) ?? true),
)

test(`kills at ${chosen.length} crash points, ${times} times each, lose nothing and change no row`, {
  timeout: 60 * 60_000,
}, async () => {
  expect(new Set(chosen.map(({ point }) => point))).toEqual(
    new Set(points ?? chosen.map(({ point }) => point)),
  )
  await crash(chosen, times, {
    seed: 'exhaustive',
    rate: 10,
    accounts: 24,
    older: 8,
    history: 40,
  })
})
