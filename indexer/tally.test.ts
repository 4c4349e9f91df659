import { Registry } from 'prom-client'
import { expect, test } from 'vitest'
import type { Event } from '../shared/events.ts'
import { createLog } from '../shared/log.ts'
import type { Entry } from '../shared/streams/consumer.ts'
import type { Applied } from './apply.ts'
import { collections } from './collections/index.ts'
import { createDeriver } from './derive.ts'
import { compileLexicons } from './lexicons.ts'
import { createMetrics } from './metrics.ts'
import { createSample } from './sample.ts'
import { type Tally, tally } from './tally.ts'
import { aPost, did } from './testing.ts'

const names = collections.map(({ nsid }) => nsid)
const deriver = createDeriver(collections, await compileLexicons(names))

test('every refusal is counted by collection and reason, and the log has one a minute of each', async () => {
  const lines: string[] = []
  const registry = new Registry()
  let now = 0
  const telling: Tally = {
    metrics: createMetrics(registry),
    log: createLog('indexer', 'info', { write: (line: string) => void lines.push(line) }),
    known: new Set(names),
    sample: createSample(() => now),
  }
  const refuse = (texts: readonly unknown[]) => {
    const events = texts.map((text, n) => aPost({ by: did('alice'), rev: n + 1 }, { text }))
    const changes = events.map(deriver.change)
    const outcomes = changes.map(({ refused }) => `refused:${refused?.reason}` as const)
    const entries = events.map((event, n) => ({ event, id: `${n}-0`, deliveries: 1 }))
    const applied = { outcomes, changes, rowsWritten: 0 } as unknown as Applied
    tally(telling, entries as unknown as Entry<Event>[], applied)
  }
  refuse([1, 2, 3])
  now = 59_000
  refuse([4])
  now = 60_000
  refuse([5])
  expect(await registry.getSingleMetricAsString('indexer_records_refused_total')).toContain(
    '{collection="app.bsky.feed.post",reason="lexicon"} 5',
  )
  const told = lines.map((line) => JSON.parse(line))
  expect(told.map(({ msg, leftOut }) => [msg, leftOut])).toEqual([
    ['record refused', 0],
    ['record refused', 3],
  ])
  expect(told[0]).toMatchObject({ reason: 'lexicon', detail: expect.stringContaining('text') })
})
