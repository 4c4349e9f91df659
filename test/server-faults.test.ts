/** Redis and Postgres fail in every way while the network lives: no worker ends, and nothing is lost. */
import { cp, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { streams } from '../shared/streams/names.ts'
import { compareIds, readState } from '../shared/streams/state.ts'
import { type LivingRoom, openLivingRoom } from './living-room.ts'
import { smallDisk } from './servers/disk.ts'
import { type OwnPostgres, ownPostgres } from './servers/postgres.ts'
import { startProxy, type TcpProxy } from './servers/proxy.ts'
import { type OwnRedis, ownRedis } from './servers/redis.ts'

// What Redis gives back as pending comes again after a minute only.
vi.setConfig({ testTimeout: 180_000, hookTimeout: 60_000 })

const patience = { timeout: 60_000 }

const resources = new AsyncDisposableStack()
let redis: OwnRedis
let database: OwnPostgres
let toRedis: TcpProxy
let toPostgres: TcpProxy
let room: LivingRoom

beforeAll(async () => {
  redis = resources.use(await ownRedis())
  database = resources.use(await ownPostgres({ settings: { fsync: 'off' } }))
  toRedis = resources.use(await startProxy({ port: redis.port }))
  toPostgres = resources.use(await startProxy({ port: database.port }))
  room = resources.use(
    await openLivingRoom({
      seed: 'server faults',
      rate: 30,
      servers: {
        redis,
        postgres: database,
        workersRedisUrl: toRedis.through,
        workersDatabaseUrl: toPostgres.through,
      },
    }),
  )
  await room.progress()
})
afterAll(() => resources.disposeAsync())

test('Redis is killed and comes back', async () => {
  const before = await runId()
  await redis.kill()
  await expect(ask(redis.url, (client) => client.ping())).rejects.toThrow()
  await redis.start()
  expect(await runId()).not.toBe(before)
  await room.progress()
})

test('Redis is paused, and goes on', async () => {
  redis.pause()
  await expect(ask(redis.url, (client) => client.ping())).rejects.toThrow()
  redis.resume()
  await room.progress()
})

test('Redis is full, and has room again', async () => {
  const limit = ((await room.pipeline.redis.config('GET', 'maxmemory')) as string[])[1] ?? '0'
  await room.pipeline.redis.config('SET', 'maxmemory', '1mb')
  await expect(ask(redis.url, (client) => client.set('more', 'bytes'))).rejects.toThrow(/^OOM/)
  const stopped = await room.cursor()
  try {
    const { relay } = room.pipeline.network
    await expect.poll(() => relay.lastSeq, patience).toBeGreaterThan(stopped + 30)
  } finally {
    await room.pipeline.redis.config('SET', 'maxmemory', limit)
  }
  await room.progress()
})

test('Redis restarts with an older state: the ingester goes back to it', async () => {
  const files = join(redis.dir, 'appendonlydir')
  const older = join(redis.dir, 'older')
  await cp(files, older, { recursive: true })
  const cursor = await room.cursor()
  await room.progress()
  await room.progress()
  const { lastId } = await readState(room.pipeline.redis, streams.live)
  await redis.kill()
  await rm(files, { recursive: true })
  await cp(older, files, { recursive: true })
  await redis.start()
  const restored = await readState(room.pipeline.redis, streams.live)
  expect(compareIds(restored.lastId, lastId)).toBeLessThan(0)
  expect(cursor).toBeGreaterThan(0)
  await room.progress()
  expect(room.workers[2]?.output()).toContain('redis has gone back')
})

test('the connections to Redis are slow, then silent, then cut', async () => {
  toRedis.latency(50)
  await room.progress()
  toRedis.latency(0)
  toRedis.blackhole(true)
  await expect.poll(() => toRedis.fired.blackhole, patience).toBeGreaterThan(0)
  toRedis.cut()
  toRedis.blackhole(false)
  await room.progress()
  expect(toRedis.fired.latency).toBeGreaterThan(0)
  expect(toRedis.fired.cut).toBeGreaterThan(0)
})

test('Postgres is killed with all its processes, and recovers', async () => {
  const before = await startTime()
  await database.kill()
  await expect(startTime()).rejects.toThrow()
  await database.start()
  expect(await startTime()).not.toBe(before)
  await room.progress()
})

test('Postgres is paused, and goes on', async () => {
  await database.pause()
  await expect(startTime()).rejects.toThrow()
  await database.resume()
  await room.progress()
})

test('Postgres is restarted in order', async () => {
  const before = await startTime()
  await database.stop()
  await database.start()
  expect(await startTime()).not.toBe(before)
  await room.progress()
})

test('every session in Postgres is terminated', async () => {
  const ended = await room.pipeline.sql`
    select pg_terminate_backend(pid) as ended from pg_stat_activity
    where pid <> pg_backend_pid() and application_name like '%indexer%'`
  expect(ended.length).toBeGreaterThan(0)
  expect(ended.every((row) => row['ended'] === true)).toBe(true)
  await room.progress()
})

test.runIf(process.getuid?.() === 0)(
  'the disk of Postgres is full, and has room again',
  async () => {
    const { sql } = room.pipeline
    const { uid, gid } = await stat(join(database.dir, 'cluster'))
    await using disk = await smallDisk({ megabytes: 16, uid, gid })
    await sql.unsafe(`create tablespace small location '${disk.path}'`)
    await sql`alter table bsky.record set tablespace small`
    await disk.fill()
    const filler = sql`create table bsky.filler tablespace small as select repeat('x', 9000) as text`
    await expect(filler).rejects.toMatchObject({ code: '53100' })
    const stuck = () => room.pipeline.left(streams.live, 'firehose_group')
    await expect.poll(stuck, patience).toBeGreaterThan(30)
    await disk.empty()
    await room.progress()
    await sql`alter table bsky.record set tablespace pg_default`
    await sql`drop tablespace small`
  },
)

test('the connections to Postgres are slow, then refused, then cut', async () => {
  toPostgres.latency(20)
  await room.progress()
  toPostgres.latency(0)
  toPostgres.refuse(true)
  toPostgres.cut()
  await expect.poll(() => toPostgres.fired.refuse, patience).toBeGreaterThan(0)
  toPostgres.refuse(false)
  await room.progress()
  expect(toPostgres.fired.latency).toBeGreaterThan(0)
  expect(toPostgres.fired.cut).toBeGreaterThan(0)
})

test('no worker has ended, and when all is quiet every row is that of the model', async () => {
  expect(room.workers.map(({ child }) => child.exitCode ?? child.signalCode)).toEqual([
    null,
    null,
    null,
  ])
  await room.settle()
})

/** By a client of its own that does not wait longer than half a second. */
async function ask<T>(url: string, question: (client: Redis) => Promise<T>): Promise<T> {
  const client = new Redis(url, {
    protocol: 2,
    retryStrategy: () => null,
    commandTimeout: 500,
    lazyConnect: true,
    maxRetriesPerRequest: 0,
  })
  client.on('error', () => {})
  try {
    return await question(client)
  } finally {
    client.disconnect()
  }
}

async function runId(): Promise<string> {
  const info = await ask(redis.url, (client) => client.info('server'))
  return /^run_id:(\w+)/m.exec(info)?.[1] ?? ''
}

/** When Postgres was started; throws when it does not answer within a second. */
async function startTime(): Promise<string> {
  const client = postgres(database.url, { max: 1, connect_timeout: 1, backoff: () => 60 })
  try {
    const [row] = await client`select pg_postmaster_start_time()::text as time`
    return String(row?.['time'])
  } finally {
    await client.end({ timeout: 0 })
  }
}
