/** Every crash point of every worker, ten times, in chains without rest: `npm run test:crash`. */
import { test } from 'vitest'
import { crash } from './run.ts'
import { targets } from './targets.ts'

const times = 10

test('kills at every crash point, each ten times, lose nothing and change no row', {
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
