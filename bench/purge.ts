/**
 * How long the purge of an account takes, and whether live batches of others feel it.
 * `node bench/purge.ts [records] [database url]`.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { pino } from 'pino'
import { type ApplyOptions, createApply } from '../indexer/apply.ts'
import { collections } from '../indexer/collections/index.ts'
import { createDeriver } from '../indexer/derive.ts'
import { compileLexicons } from '../indexer/lexicons.ts'
import { purgeOne } from '../indexer/purge.ts'
import { migrate } from '../migrations/migrate.ts'
import type { Event } from '../shared/events.ts'
import { connectPostgres } from '../shared/postgres.ts'
import { withPostgres } from './engine.ts'
import { cid, did, tid } from './mix.ts'

const schema = 'bsky'
const posts = 29_000
const liveSize = 20
const calmMs = 5_000

function aLike(by: string, n: number): Event {
  const of = n % posts
  const subject = { uri: `at://${did(of + 9_000)}/app.bsky.feed.post/${tid(of)}`, cid }
  const record = { $type: 'app.bsky.feed.like', subject, createdAt: '2026-01-01T00:00:00.000Z' }
  const head = { seq: n, time: '2026-01-02T00:00:00.000Z', did: by, commit: cid, rev: tid(n) }
  return { type: 'create', ...head, collection: record.$type, rkey: tid(n), cid, record }
}

const range = (from: number, count: number) => Array.from({ length: count }, (_, n) => from + n)
const records = Number(process.argv[2] ?? 30_000)
const leaving = did(1)

await withPostgres(process.argv[3], async (databaseUrl) => {
  await migrate({ databaseUrl, schema })
  const log = pino({ level: 'silent' })
  await using sql = connectPostgres({ databaseUrl, poolSize: 4, log })
  const validate = await compileLexicons(collections.map(({ nsid }) => nsid))
  const deriver = createDeriver(collections, validate)
  const base = { sql, schema, collections, deriver, statementTimeoutMs: 60_000, handles: false }
  const options: ApplyOptions = { ...base, scope: () => true }
  const apply = createApply(options)
  for (let at = 0; at < records; at += 1_000) {
    await apply(range(at, Math.min(1_000, records - at)).map((n) => aLike(leaving, n)))
  }
  const account = { type: 'account', seq: 1, did: leaving, active: false } as const
  await apply([{ ...account, time: '2026-02-01T00:00:00.000Z', status: 'deleted' }])

  let sent = 0
  /** Small batches of others, one after the other, until the work is done. */
  const live = async (work: Promise<unknown>) => {
    let isDone = false
    void work.then(() => {
      isDone = true
    })
    const times: number[] = []
    while (!isDone) {
      const start = performance.now()
      await apply(range(sent, liveSize).map((n) => aLike(did(100 + (n % 500)), records + n)))
      times.push(performance.now() - start)
      sent += liveSize
      await delay(20)
    }
    times.sort((a, b) => a - b)
    const at = (share: number) => Number(times[Math.floor(times.length * share)]?.toFixed(1))
    return { batches: times.length, 'p50 ms': at(0.5), 'p99 ms': at(0.99) }
  }

  const before = await live(delay(calmMs))
  const start = performance.now()
  const purging = purgeOne(
    {
      apply: options,
      // As of a DID whose document names no host any more.
      identity: { resolve: async (did) => ({ did, handle: null, pds: null, signingKey: null }) },
      fetch,
      timeoutMs: 1_000,
      log,
    },
    { did: leaving, state: 'asked', attempts: 0 },
    new AbortController().signal,
  )
  const meanwhile = await live(purging)
  const seconds = (performance.now() - start) / 1_000
  console.table({ 'live batches before': before, 'live batches meanwhile': meanwhile })
  console.log(`${records} records purged, ${Math.round(records / seconds)} a second`)
})
