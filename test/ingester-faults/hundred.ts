/** A hundred kills of the ingester in one chain: `npm run test:kills`; `KILLS=20` for fewer. */
import { expect, test } from 'vitest'
import { env } from '../env.ts'
import { killChain } from './kills.ts'

const kills = Number(env['KILLS'] ?? 100)

test('a hundred kills of the ingester, without rest, lose nothing and repeat nothing', {
  timeout: 60 * 60_000,
}, async () => {
  const started = performance.now()
  const { hits, entries } = await killChain('hundred', kills)
  const seconds = Math.round((performance.now() - started) / 1_000)
  const rows = [...hits].sort(([a], [b]) => (a < b ? -1 : 1))
  console.log(rows.map(([step, count]) => `${String(count).padStart(4)}  ${step}`).join('\n'))
  console.log(`${kills} kills in ${seconds} s, ${entries} entries`)
  expect(rows.reduce((sum, [, count]) => sum + count, 0)).toBe(kills)
})
