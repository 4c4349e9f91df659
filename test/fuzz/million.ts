/**
 * A million spoilt frames: `npm run test:fuzz`. In pieces, each with the seed that its number gives;
 * `FUZZ_PIECES=3,4` runs those alone, `FUZZ_SEED=name` another million.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { env } from '../env.ts'
import { type Corpus, openCorpus } from './corpus.ts'
import { allReasons, fuzz } from './fuzz.ts'

const inPiece = 100_000
const pieces = (env['FUZZ_PIECES'] ?? '1,2,3,4,5,6,7,8,9,10').split(',')
const seed = env['FUZZ_SEED'] ?? 'million'
/** What the heap may grow by, however many frames there were: caches that fill up, noise. */
const mostGrowth = 40_000_000

let corpus: Corpus
const made = new Map<string, number>()
const reasons = new Map<string, number>()
beforeAll(async () => {
  corpus = await openCorpus()
}, 60_000)
afterAll(() => {
  console.log(table(made))
  console.log(table(reasons))
})

test.each(pieces)(
  'piece %s ends nothing, adds nothing to the truth, meets every reason and needs no more memory',
  { timeout: 600_000 },
  async (piece) => {
    const started = process.cpuUsage()
    const result = await fuzz(corpus, { seed: `${seed}/${piece}`, count: inPiece })
    const { user, system } = process.cpuUsage(started)
    for (const name of ['made', 'reasons'] as const) {
      const total = name === 'made' ? made : reasons
      for (const [key, count] of result[name]) total.set(key, (total.get(key) ?? 0) + count)
    }
    const { heap, events, whole } = result
    const each = ((user + system) / inPiece).toFixed(0)
    const megabytes = (bytes: number) => (bytes / 1_000_000).toFixed(1)
    console.log(
      `${events} events, ${whole} commits whole, ${each} µs of CPU a frame, heap ${megabytes(heap.start)} to ${megabytes(heap.most)} MB`,
    )
    expect(allReasons.filter((reason) => !result.reasons.has(reason))).toEqual([])
    expect([...result.reasons.keys()].filter((reason) => !allReasons.includes(reason))).toEqual([])
    expect(heap.most).toBeLessThan(heap.start + mostGrowth)
  },
)

function table(counts: ReadonlyMap<string, number>): string {
  const rows = [...counts].sort(([, a], [, b]) => b - a)
  return rows.map(([name, count]) => `${String(count).padStart(9)}  ${name}`).join('\n')
}
