/** A million spoilt repos: `npm run test:fuzz`; `FUZZ_PIECES` and `FUZZ_SEED` as for frames. */
import { expect, test } from 'vitest'
import { env } from '../env.ts'
import { fuzzCars, openSources } from './whole-repos.ts'

const inPiece = 100_000
const pieces = (env['FUZZ_PIECES'] ?? '1,2,3,4,5,6,7,8,9,10').split(',')
const seed = env['FUZZ_SEED'] ?? 'million'

test.each(pieces)(
  'piece %s of spoilt repos: each ends with a reason or is true, in little time and memory',
  { timeout: 900_000 },
  async (piece) => {
    const sources = await openSources()
    const before = process.memoryUsage().rss
    const { reasons, slowestMs } = await fuzzCars(sources, {
      seed: `${seed}/cars/${piece}`,
      count: inPiece,
    })
    const rss = process.memoryUsage().rss
    console.log(
      [...reasons],
      `slowest ${slowestMs.toFixed(0)} ms, rss ${(rss / 1e6).toFixed(0)} MB`,
    )
    expect(rss - before).toBeLessThan(300_000_000)
  },
)
