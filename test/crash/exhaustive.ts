/** Every crash point of every worker, ten times each, in chains without rest: `npm run test:crash`. */
import { test } from 'vitest'
import { env } from '../env.ts'
import { crash } from './run.ts'
import { targets } from './targets.ts'

/** Fewer for a look: `CRASH_TIMES=2 npm run test:crash`. */
const times = Number(env['CRASH_TIMES'] ?? 10)

test('kills at every crash point, lose nothing and change no row', {
  timeout: 60 * 60_000,
}, async () => {
  await crash(targets, times, {
    seed: 'exhaustive',
    rate: 10,
    accounts: 24,
    older: 8,
    history: 40,
  })
})
