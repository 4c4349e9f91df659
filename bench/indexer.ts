/**
 * How many events a second the indexer applies to Postgres, and what each costs: a mix like the
 * network's, in batches of several sizes. `node bench/indexer.ts [events] [database url]`.
 */
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { createApply } from '../indexer/apply.ts'
import { collections } from '../indexer/collections/index.ts'
import { createDeriver } from '../indexer/derive.ts'
import { compileLexicons } from '../indexer/lexicons.ts'
import { migrate } from '../migrations/migrate.ts'
import { environment } from '../shared/config.ts'
import type { Event, PutEvent } from '../shared/events.ts'
import { connectPostgres, type Sql } from '../shared/postgres.ts'
import { scopeOf } from '../shared/scope.ts'
import { findPlaces } from '../start/places.ts'
import { startPostgres } from '../start/postgres.ts'

const schema = 'bsky'
const accounts = 2_000
const cid = 'bafyreiakjysges5gqcg5yc2btbqyglrekv4ikboapvljxzv5pvm77zrnxi'
const base32 = '234567abcdefghijklmnopqrstuvwxyz'
const createdAt = '2026-01-01T00:00:00.000Z'

function tid(n: number): string {
  let text = ''
  for (let rest = n; text.length < 10; rest = Math.floor(rest / 32)) text = base32[rest % 32] + text
  return `3kz${text}`
}

const did = (n: number) => `did:plc:${tid(n).padEnd(24, 'a')}`

/** Likes 55 %, posts 16, follows 12, reposts 9, deletions 8: as the firehose has it; a few posts are famous. */
function* history(count: number, offset: number): Generator<Event> {
  let state = 42 + offset
  const random = (below: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0
    return ((state >>> 0) / 2 ** 32) * below
  }
  const whole = (below: number) => Math.floor(random(below))
  const recent: PutEvent[] = []
  const subject = () => {
    const n = whole(10) === 0 ? whole(20) : whole(50_000)
    return { uri: `at://${did(n % accounts)}/app.bsky.feed.post/${tid(n)}`, cid }
  }
  for (let i = offset; i < offset + count; i += 1) {
    const draw = random(1)
    const by = did(whole(accounts))
    const head = { seq: i, time: '2026-01-02T03:04:05.678Z', did: by, commit: cid, rev: tid(i) }
    const old = draw > 0.92 ? recent.splice(whole(recent.length), 1)[0] : undefined
    if (old !== undefined) {
      const { did, collection, rkey } = old
      yield { ...head, type: 'delete', did, collection, rkey }
      continue
    }
    const [collection, record] = recordOf(draw, i, subject, () => did(whole(accounts)))
    const event: PutEvent = {
      ...head,
      type: 'create',
      collection,
      rkey: tid(i),
      cid,
      record: { $type: collection, ...record, createdAt },
    }
    if (recent.length < 5_000) recent.push(event)
    yield event
  }
}

function recordOf(
  draw: number,
  i: number,
  subject: () => { uri: string; cid: string },
  account: () => string,
): [string, Record<string, unknown>] {
  if (draw < 0.12) return ['app.bsky.graph.follow', { subject: account() }]
  if (draw < 0.21) return ['app.bsky.feed.repost', { subject: subject() }]
  if (draw > 0.37) return ['app.bsky.feed.like', { subject: subject() }]
  const text = `post number ${i} says something of about the usual length, as people do on the network`
  if (i % 3 > 0) return ['app.bsky.feed.post', { text, langs: ['en'] }]
  const parent = subject()
  return ['app.bsky.feed.post', { text, langs: ['en'], reply: { root: parent, parent } }]
}

interface Run {
  batchSize: number
  transactions: number
}

async function measure(sql: Sql, events: readonly Event[], { batchSize, transactions }: Run) {
  const names = collections.map(({ nsid }) => nsid)
  const apply = createApply({
    sql,
    schema,
    collections,
    deriver: createDeriver(collections, await compileLexicons(names)),
    scope: scopeOf(names),
    statementTimeoutMs: 60_000,
    handles: false,
  })
  // Dealt by account, as the consumer deals them.
  const lanes = Array.from({ length: transactions }, (): Event[] => [])
  for (const event of events) lanes[laneOf(event.did, transactions)]?.push(event)
  const cpu = process.cpuUsage()
  const start = performance.now()
  await Promise.all(
    lanes.map(async (lane) => {
      for (let at = 0; at < lane.length; at += batchSize) {
        await apply(lane.slice(at, at + batchSize))
      }
    }),
  )
  const seconds = (performance.now() - start) / 1_000
  const { user, system } = process.cpuUsage(cpu)
  return {
    batchSize,
    transactions,
    'events/s': Math.round(events.length / seconds),
    'own CPU µs/event': Math.round((user + system) / events.length),
  }
}

function laneOf(text: string, lanes: number): number {
  let hash = 0
  for (const letter of text) hash = (Math.imul(hash, 31) + letter.charCodeAt(0)) | 0
  return Math.abs(hash) % lanes
}

async function withPostgres(work: (url: string) => Promise<void>): Promise<void> {
  const given = process.argv[3]
  if (given !== undefined) return work(given)
  const folder = await mkdtemp(join(tmpdir(), 'sluice-bench-'))
  await chmod(folder, 0o755)
  const places = await findPlaces(environment)
  const server = await startPostgres({ places, dir: join(folder, 'postgres') })
  try {
    await work(server.url)
  } finally {
    await server.stop()
    await rm(folder, { recursive: true, force: true })
  }
}

const count = Number(process.argv[2] ?? 30_000)
const runs: Run[] = [
  { batchSize: 100, transactions: 1 },
  { batchSize: 50, transactions: 2 },
  { batchSize: 500, transactions: 1 },
  { batchSize: 500, transactions: 2 },
  { batchSize: 500, transactions: 3 },
  { batchSize: 2_000, transactions: 2 },
]

await withPostgres(async (databaseUrl) => {
  await migrate({ databaseUrl, schema })
  await using sql = connectPostgres({ databaseUrl, poolSize: 4, log: pino({ level: 'silent' }) })
  const results: Awaited<ReturnType<typeof measure>>[] = []
  for (const [index, run] of runs.entries()) {
    results.push(await measure(sql, [...history(count, index * count)], run))
  }
  console.table(results)
})
