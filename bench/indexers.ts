/**
 * Indexer processes on a real Redis and Postgres: what they apply a second, what it costs, and how
 * long an event takes. `node bench/indexers.ts grow|famous|bulk|live|queue [events]`.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import postgres, { type Sql } from 'postgres'
import { migrate } from '../migrations/migrate.ts'
import { environment } from '../shared/config.ts'
import { type Event, encodeEvent } from '../shared/events.ts'
import { leanIndexer } from '../shared/lean.ts'
import { sleep } from '../shared/retry.ts'
import { findPlaces } from '../start/places.ts'
import { startRedis } from '../start/redis.ts'
import { ordinary, reuseWal, startServer } from './engine.ts'
import { cid, did, history, smallWorld, tid, timeOf } from './mix.ts'

const group = 'firehose_group'
const ticksPerSecond = 100
/** Entries appended in one round trip. */
const pipeline = 1_000

interface Servers {
  redis: Redis
  redisUrl: string
  sql: Sql
  databaseUrl: string
  postgresPid: number
}

const scenarios: Record<string, (servers: Servers, events: number | undefined) => Promise<void>> = {
  grow,
  famous,
  bulk,
  live,
  queue,
}
const [name = 'grow', count] = process.argv.slice(2)
const scenario = scenarios[name]
if (scenario === undefined) throw new Error(`one of ${Object.keys(scenarios).join(', ')}`)
await withServers((servers) => scenario(servers, count === undefined ? undefined : Number(count)))

/** The mix, by one, two and four indexers. */
async function grow(servers: Servers, events = 60_000): Promise<void> {
  const rows = []
  for (const [round, indexers] of [1, 2, 4].entries()) {
    const made = [...history(events, round * events)]
    rows.push({ indexers, ...(await drain(servers, 'firehose_live', made, indexers)) })
  }
  console.table(rows)
}

/** Four indexers: likes of as many posts and follows of as many accounts, then of one and the same. */
async function famous(servers: Servers, events = 100_000): Promise<void> {
  const rows = []
  for (const [round, all] of [false, true, false, true].entries()) {
    const made = [...admiration(events, round * 2 * events, all)]
    const measured = await drain(servers, 'firehose_live', made, 4)
    rows.push({ subjects: all ? 'one' : 'all different', ...measured })
  }
  console.table(rows)
  const [{ deadlocks } = { deadlocks: 0 }] = await servers.sql<{ deadlocks: number }[]>`
    select deadlocks::int from pg_stat_database where datname = current_database()`
  console.log(`deadlocks: ${deadlocks}`)
}

/** Whole repos by two indexers into an empty schema, while live events go on at 100 a second. */
async function bulk(servers: Servers, events = 100_000): Promise<void> {
  const made = [...history(events, 0, { ...smallWorld, accounts: 20_000 })]
    .filter((event) => event.type === 'create')
    .map((event) => ({ ...event, seq: -1 }))
  const alone = await drain(servers, 'firehose_backfill', made, 2)
  const others = [...history(events, events, { ...smallWorld, accounts: 20_000 })]
    .filter((event) => event.type === 'create')
    .map((event) => ({ ...event, seq: -1 }))
  const stop = new AbortController()
  let beside: ReturnType<typeof paced> | undefined
  const together = await drain(servers, 'firehose_backfill', others, 2, () => {
    beside = paced(servers, [...history(20_000, 3 * events)], 100, stop.signal)
  })
  stop.abort()
  const written = (await beside) ?? new Map()
  await emptied(servers, 'firehose_live', 2)
  console.table([
    { beside: 'nothing', ...alone },
    { beside: '100 live events/s', ...together },
  ])
  console.table([await latency(servers, written)])
}

/** One indexer at 500 events a second: from entry to committed row. */
async function live(servers: Servers, events = 15_000): Promise<void> {
  const indexers = await startIndexers(servers, 1)
  const busy = cpuSeconds(pidsOf(indexers))
  const started = performance.now()
  const written = await paced(servers, [...history(events, 0)], 500, new AbortController().signal)
  await drained(servers, 'firehose_live')
  const seconds = (performance.now() - started) / 1_000
  const share = (cpuSeconds(pidsOf(indexers)) - busy) / seconds
  await stop(indexers)
  console.table([{ ...(await latency(servers, written)), 'CPU of a core': share.toFixed(2) }])
}

/** One indexer, behind queues of three lengths. */
async function queue(servers: Servers, events = 500_000): Promise<void> {
  const rows = []
  let from = 0
  for (const length of [events / 25, events / 5, events]) {
    rows.push({ length, ...(await drain(servers, 'firehose_live', history(length, from), 1)) })
    from += length
  }
  console.table(rows)
}

function* admiration(count: number, offset: number, one: boolean): Generator<Event> {
  for (let i = offset; i < offset + 2 * count; i += 1) {
    const n = one ? 0 : i
    const [collection, subject] =
      i % 2 === 0
        ? ['app.bsky.feed.like', { uri: `at://${did(n)}/app.bsky.feed.post/${tid(n)}`, cid }]
        : ['app.bsky.graph.follow', did(n)]
    yield {
      type: 'create',
      seq: i + 1,
      time: timeOf(i),
      did: did(i),
      commit: cid,
      rev: tid(i),
      collection: String(collection),
      rkey: tid(i),
      cid,
      record: { $type: collection, subject, createdAt: timeOf(i) },
    } as Event
  }
}

/** Puts the events on the stream, starts so many indexers, and measures until all is acknowledged. */
async function drain(
  servers: Servers,
  stream: string,
  events: Iterable<Event>,
  many: number,
  onStarted = () => {},
) {
  const { redis, sql, postgresPid } = servers
  let batch = redis.pipeline()
  for (const event of events) {
    batch.xadd(stream, '*', ...encodeEvent(event))
    if (batch.length < pipeline) continue
    await batch.exec()
    batch = redis.pipeline()
  }
  await batch.exec()
  const total = await redis.xlen(stream)
  const indexers = await startIndexers(servers, many)
  onStarted()
  // What starting costs is not what is measured.
  while ((await redis.xlen(stream)) > total * 0.9) await sleep(5)
  const left = await redis.xlen(stream)
  const pids = pidsOf(indexers)
  const client = cpuSeconds(pids)
  const server = cpuSeconds([postgresPid])
  const started = performance.now()
  let connections = 0
  while ((await redis.xlen(stream)) > 0) {
    const [row] = await sql<{ n: number }[]>`
      select count(*)::int as n from pg_stat_activity where application_name like 'sluice-indexer%'`
    connections = Math.max(connections, row?.n ?? 0)
    await sleep(50)
  }
  const seconds = (performance.now() - started) / 1_000
  const perEvent = (cpu: number) => Math.round((cpu * 1_000_000) / left)
  const result = {
    'events/s': Math.round(left / seconds),
    'client µs': perEvent(cpuSeconds(pids) - client),
    'Postgres µs': perEvent(cpuSeconds([postgresPid]) - server),
    'peak MB each': Math.max(...pids.map(peakMegabytes)),
    'connections each': Math.ceil(connections / many),
  }
  await stop(indexers)
  return result
}

/** Appends at a pace; gives when each record's entry was made, in ms. */
async function paced(
  { redis }: Servers,
  events: readonly Event[],
  perSecond: number,
  signal: AbortSignal,
): Promise<Map<string, number>> {
  const written = new Map<string, number>()
  const started = performance.now()
  for (const [index, event] of events.entries()) {
    const due = started + (index * 1_000) / perSecond
    if (due > performance.now()) await sleep(due - performance.now())
    if (signal.aborted) break
    const id = await redis.xadd('firehose_live', '*', ...encodeEvent(event))
    if (event.type !== 'create' || id === null) continue
    written.set(`at://${event.did}/${event.collection}/${event.rkey}`, Number(id.split('-')[0]))
  }
  return written
}

/** From the entry's id, which is Redis's clock, to the commit of its record's row. */
async function latency({ sql }: Servers, written: ReadonlyMap<string, number>) {
  const rows = await sql<{ uri: string; at: number }[]>`
    select uri, extract(epoch from pg_xact_commit_timestamp(xmin)) * 1000 as at from bsky.record
    where uri = any(${[...written.keys()]})`
  const waits = rows
    .map(({ uri, at }) => Number(at) - (written.get(uri) ?? 0))
    .sort((a, b) => a - b)
  const quantile = (q: number) =>
    Math.round(waits[Math.floor(q * (waits.length - 1))] ?? Number.NaN)
  return {
    events: waits.length,
    'p50 ms': quantile(0.5),
    'p99 ms': quantile(0.99),
    'max ms': quantile(1),
  }
}

async function startIndexers(servers: Servers, many: number): Promise<ChildProcess[]> {
  const children = Array.from({ length: many }, (_, index) =>
    spawn(process.execPath, [...leanIndexer.flags, 'indexer/main.ts'], {
      env: {
        REDIS_URL: servers.redisUrl,
        REDIS_MEMORY_LIMIT_BYTES: String(4e9),
        DATABASE_URL: servers.databaseUrl,
        INDEXER_CONSUMER: `bench-${index}`,
        INDEXER_MODE: 'stream',
        ENABLE_DID_RESOLUTION: 'false',
        METRICS_PORT: '0',
        LOG_LEVEL: 'warn',
      },
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    }),
  )
  const failed = children.map(async (child) => {
    const [code] = await once(child, 'exit')
    throw new Error(`an indexer ended by itself with ${code}`)
  })
  for (const failure of failed) failure.catch(() => {})
  await Promise.race([...failed, Promise.all(children.map((child) => once(child, 'message')))])
  return children
}

async function stop(children: readonly ChildProcess[]): Promise<void> {
  const ended = children.map((child) => once(child, 'exit'))
  for (const child of children) child.kill('SIGTERM')
  await Promise.all(ended)
}

async function emptied(servers: Servers, stream: string, many: number): Promise<void> {
  const indexers = await startIndexers(servers, many)
  await drained(servers, stream)
  await stop(indexers)
}

async function drained({ redis }: Servers, stream: string): Promise<void> {
  while ((await redis.xlen(stream)) > 0) await sleep(20)
}

function pidsOf(children: readonly ChildProcess[]): number[] {
  return children.flatMap(({ pid }) => pid ?? [])
}

/** CPU that these processes and their children have used, ended ones included. */
function cpuSeconds(pids: readonly number[]): number {
  let ticks = 0
  for (const pid of readdirSync('/proc').map(Number).filter(Number.isInteger)) {
    const fields = statOf(pid)
    if (fields === null) continue
    const [ppid = 0, ...times] = [1, 11, 12, 13, 14].map((field) => Number(fields[field]))
    if (pids.includes(pid)) ticks += times.reduce((sum, time) => sum + time, 0)
    else if (pids.includes(ppid)) ticks += (times[0] ?? 0) + (times[1] ?? 0)
  }
  return ticks / ticksPerSecond
}

/** The fields of /proc/pid/stat after the name: state, ppid, …; null when it is gone. */
function statOf(pid: number): string[] | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return text.slice(text.lastIndexOf(')') + 2).split(' ')
  } catch {
    return null // it ended since it was listed
  }
}

function peakMegabytes(pid: number): number {
  const text = readFileSync(`/proc/${pid}/status`, 'utf8')
  return Math.round(Number(/VmHWM:\s+(\d+)/.exec(text)?.[1]) / 1_024)
}

async function withServers(work: (servers: Servers) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-bench-'))
  await chmod(folder, 0o755)
  const places = await findPlaces(environment)
  await using postgresServer = await startServer({
    dir: join(folder, 'postgres'),
    settings: { ...ordinary, track_commit_timestamp: 'on' },
  })
  await using redisServer = await startRedis({ places, dir: join(folder, 'redis') })
  const redis = new Redis(redisServer.url, { protocol: 2 })
  const sql = postgres(postgresServer.url, { max: 1 })
  try {
    await reuseWal(postgresServer.url)
    await migrate({ databaseUrl: postgresServer.url, schema: 'bsky' })
    for (const stream of ['firehose_live', 'firehose_backfill']) {
      await redis.xgroup('CREATE', stream, group, '0', 'MKSTREAM')
    }
    await work({
      redis,
      redisUrl: redisServer.url,
      sql,
      databaseUrl: postgresServer.url,
      postgresPid: postgresServer.pid,
    })
  } finally {
    redis.disconnect()
    await sql.end()
    await rm(folder, { recursive: true, force: true, maxRetries: 5 }).catch(() => {})
  }
}
