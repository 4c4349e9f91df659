/** The laws under faults that really happen: killed processes, a Redis that is full, away, or back in time. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { ownRedis, testRedis } from '../../test/servers/redis.ts'
import { sleep } from '../retry.ts'
import { ledgerBalance } from './ledger.ts'
import { type Producer, RewoundError } from './producer.ts'
import { readMemory } from './room.ts'
import { events, eventually, group, onStream, pending, range, stream, testbed } from './testbed.ts'

const child = fileURLToPath(new URL('child.ts', import.meta.url))

function consumerProcess(url: string, name: string): ChildProcess & AsyncDisposable {
  const running = spawn(process.execPath, [child, url, name], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  return Object.assign(running, {
    [Symbol.asyncDispose]: async () => {
      if (running.exitCode !== null || running.signalCode !== null) return
      running.kill('SIGKILL')
      await once(running, 'exit')
    },
  })
}

test('a consumer killed with entries in hand, again and again, loses and miscounts nothing', {
  timeout: 90_000,
}, async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const { redis } = server
  const all = range(1, 4_000).map(String)
  const producer = await bed.producer()
  for (let from = 0; from < all.length; from += 500)
    await producer.append({ entries: events(...all.slice(from, from + 500)) })
  let kills = 0
  for (const attempt of range(1, 5)) {
    await using victim = consumerProcess(server.url, `indexer${attempt % 2}`)
    const before = await redis.llen('applied')
    await eventually(() => redis.llen('applied')).toBeGreaterThan(before + 40)
    await eventually(() => pending(redis)).toBeGreaterThan(0)
    victim.kill('SIGKILL')
    await once(victim, 'exit')
    expect(victim.signalCode).toBe('SIGKILL')
    if ((await pending(redis)) > 0) kills += 1
  }
  expect(kills).toBe(5)
  await using last = consumerProcess(server.url, 'indexer0')
  await eventually(async () => (await ledgerBalance(redis, stream, group))?.applied).toBe(
    all.length,
  )
  last.kill('SIGTERM')
  await once(last, 'exit')
  expect(last.exitCode).toBe(0)
  const applied = await redis.lrange('applied', 0, -1)
  expect(new Set(applied).size).toBe(all.length)
  expect(applied.length).toBeLessThan(all.length + 5 * 100)
  expect(await redis.xlen(stream)).toBe(0)
  expect(await ledgerBalance(redis, stream, group)).toMatchObject({
    pending: 0,
    lag: 0,
    balanced: true,
  })
})

/** A source that can be read again from any position: events are whole numbers. */
async function pour(producer: Producer, upTo: number, rewinds: (string | null)[]): Promise<void> {
  let next = Number((await producer.cursor()) ?? 0) + 1
  while (next <= upTo) {
    const last = Math.min(next + 9, upTo)
    try {
      await producer.append({ entries: events(...range(next, last)), cursor: String(last) })
      next = last + 1
    } catch (error) {
      if (!(error instanceof RewoundError)) throw error
      rewinds.push(error.cursor)
      next = Number(error.cursor ?? 0) + 1
    }
  }
}

test('a Redis that lost its last second is filled again from the older cursor', {
  timeout: 60_000,
}, async () => {
  await using redis = await ownRedis()
  await using bed = testbed(redis.url)
  const folder = await mkdtemp(join(tmpdir(), 'sluice-aof-'))
  const rewinds: (string | null)[] = []
  const producer = await bed.producer({ cursor: { key: 'c', kind: 'seq' } })
  const consumer = bed.consumer({ batchSize: 7 })
  await pour(producer, 500, rewinds)
  await cp(join(redis.dir, 'appendonlydir'), folder, { recursive: true })
  await pour(producer, 1_000, rewinds)
  await eventually(() => consumer.seen().length).toBe(1_000)
  await redis.kill()
  await rm(join(redis.dir, 'appendonlydir'), { recursive: true })
  await cp(folder, join(redis.dir, 'appendonlydir'), { recursive: true })
  await redis.start()
  await pour(producer, 1_001, rewinds) // it believes that it stands at 1000
  // The first append after it finds out: what it believed durable was not.
  await pour(producer, 1_500, rewinds)
  expect(rewinds).toEqual(['500'])
  await eventually(() => new Set(consumer.seen()).size).toBe(1_500)
  await eventually(() => pending(bed.redis)).toBe(0)
  await consumer.stop()
  expect(await bed.redis.get('c')).toBe('1500')
  const balance = await ledgerBalance(bed.redis, stream, group)
  expect(balance).toMatchObject({ added: 1_500, applied: 1_500, lag: 0, balanced: true })
  await rm(folder, { recursive: true })
})

const fat = 'x'.repeat(10_000)

test('a Redis at maxmemory makes the producer wait, the consumers drain it, and nothing is lost', {
  timeout: 60_000,
}, async () => {
  await using redis = await ownRedis({
    args: ['--maxmemory', '12mb', '--maxmemory-policy', 'noeviction'],
  })
  await using bed = testbed(redis.url)
  const producer = await bed.producer({ cursor: { key: 'c', kind: 'seq' } })
  const all = range(1, 3_000)
  const appending = (async () => {
    for (let from = 0; from < all.length; from += 20) {
      const part = all.slice(from, from + 20)
      await producer.append({
        entries: events(...part.map((n) => `${n} ${fat}`)),
        cursor: String(part.at(-1)),
      })
    }
  })()
  await eventually(() => bed.metric('stream_producer_waiting', { reason: 'full' })).toBe(1)
  await expect(bed.redis.set('any', fat.repeat(10))).rejects.toThrow(/^OOM/)
  // The group does not exist yet: it is created on the full Redis.
  const consumer = bed.consumer({
    decode: (fields) => (fields[1] ?? '').split(' ', 1)[0] ?? '',
    minIdleMs: 2_000,
  })
  await appending
  await eventually(() => consumer.seen().length).toBe(all.length)
  expect(consumer.seen()).toEqual(all.map(String))
  await consumer.stop()
  expect(await producer.cursor()).toBe('3000')
  expect(await ledgerBalance(bed.redis, stream, group)).toMatchObject({
    applied: 3_000,
    balanced: true,
  })
})

test('below maxmemory by its ratio the producer stops by itself, and dead letters still fit', {
  timeout: 60_000,
}, async () => {
  await using redis = await ownRedis({
    args: ['--maxmemory', '20mb', '--maxmemory-policy', 'noeviction'],
  })
  await using bed = testbed(redis.url)
  const producer = await bed.producer({ highWater: { length: 1_000_000, memoryRatio: 0.6 } })
  let appended = 0
  const appending = (async () => {
    for (const n of range(1, 2_000)) {
      await producer.append({ entries: events(`${n} ${fat}`) })
      appended = n
    }
  })()
  await eventually(() => bed.metric('stream_producer_waiting', { reason: 'memory' })).toBe(1)
  const { used, max } = await readMemory(bed.redis)
  expect(used / max).toBeGreaterThan(0.55)
  expect(used / max).toBeLessThan(0.75)
  expect(appended).toBeLessThan(2_000)
  const consumer = bed.consumer({
    decode: (fields) => (fields[1] ?? '').split(' ', 1)[0] ?? '',
    apply: async (entries) =>
      entries.map(({ event }) =>
        Number(event) % 100 === 0 ? { deadLetter: { reason: 'round', error: 'x' } } : 'applied',
      ),
  })
  await appending
  await eventually(() => consumer.seen().length).toBe(2_000)
  await eventually(() => bed.redis.xlen('s_dlq')).toBe(20)
  await consumer.stop()
  expect(await ledgerBalance(bed.redis, stream, group)).toMatchObject({
    ...{ applied: 1_980, dead: { round: 20 }, balanced: true },
  })
})

test('a dead letter that Redis has no memory for stays pending, aside, and reading goes on', {
  timeout: 60_000,
}, async () => {
  await using redis = await ownRedis()
  await using bed = testbed(redis.url)
  const producer = await bed.producer()
  await producer.append({ entries: events('bad', ...range(1, 50)) })
  const { used } = await readMemory(bed.redis)
  await bed.redis.config('SET', 'maxmemory', String(Math.floor(used / 2)))
  const consumer = bed.consumer({
    apply: async (entries) =>
      entries.map(({ event }) =>
        event === 'bad' ? { deadLetter: { reason: 'bad', error: 'x' } } : 'applied',
      ),
  })
  await eventually(() => consumer.seen().length).toBe(51)
  await eventually(() => bed.metric('stream_entries_aside', { kind: 'dead_letter' })).toBe(1)
  await eventually(() => pending(bed.redis)).toBe(1)
  expect(await bed.redis.exists('s_dlq')).toBe(0)
  await bed.redis.config('SET', 'maxmemory', '0')
  await eventually(() => bed.redis.xlen('s_dlq')).toBe(1)
  await consumer.stop()
  expect(await ledgerBalance(bed.redis, stream, group)).toMatchObject({
    ...{ applied: 50, dead: { bad: 1 }, pending: 0, balanced: true },
  })
})

test('a Redis killed and started again under load loses and repeats nothing on the stream', {
  timeout: 60_000,
}, async () => {
  await using redis = await ownRedis({ args: ['--appendfsync', 'always'] })
  await using bed = testbed(redis.url)
  const rewinds: (string | null)[] = []
  const told: string[] = []
  const producer = await bed.producer({ cursor: { key: 'c', kind: 'seq' } })
  const consumer = bed.consumer({
    health: { ready: () => told.push('ready'), notReady: (reason) => told.push(reason) },
  })
  const pouring = pour(producer, 5_000, rewinds)
  pouring.catch(() => {})
  for (const _ of range(1, 3)) {
    const before = consumer.seen().length
    await eventually(() => consumer.seen().length).toBeGreaterThan(before + 100)
    await redis.kill()
    await eventually(() => bed.metric('stream_redis_away')).toBe(1)
    await redis.start()
    await eventually(() => bed.metric('stream_redis_away')).toBe(0)
  }
  await pouring
  await eventually(() => new Set(consumer.seen()).size).toBe(5_000)
  await eventually(() => pending(bed.redis)).toBe(0)
  await consumer.stop()
  expect(rewinds).toEqual([])
  expect(told.filter((reason) => reason === 'redis is away').length).toBeGreaterThanOrEqual(3)
  expect(await ledgerBalance(bed.redis, stream, group)).toMatchObject({
    ...{ added: 5_000, applied: 5_000, balanced: true },
  })
})

test('a Redis that does not answer for 30 s is waited for, and said to be away', {
  timeout: 120_000,
}, async () => {
  await using redis = await ownRedis()
  await using bed = testbed(redis.url)
  const rewinds: (string | null)[] = []
  const producer = await bed.producer({ cursor: { key: 'c', kind: 'seq' } })
  const consumer = bed.consumer()
  await pour(producer, 100, rewinds)
  await eventually(() => consumer.seen().length).toBe(100)
  redis.pause()
  const since = Date.now()
  const pouring = pour(producer, 1_000, rewinds)
  pouring.catch(() => {})
  await eventually(() => bed.metric('stream_redis_away')).toBe(1)
  await eventually(() => bed.metric('stream_producer_waiting', { reason: 'away' })).toBe(1)
  await sleep(30_000 - (Date.now() - since)) // the law's own 30 s
  expect(consumer.seen()).toHaveLength(100)
  redis.resume()
  await pouring
  await eventually(() => consumer.seen().length).toBe(1_000)
  expect(consumer.seen()).toEqual(range(1, 1_000).map(String))
  expect(rewinds).toEqual([])
  expect(await bed.metric('stream_redis_away')).toBe(0)
  expect(await onStream(bed.redis)).toEqual([])
})
