/** The producer, on a real Redis. */
import { expect, test } from 'vitest'
import { ownRedis, testRedis } from '../../test/servers/redis.ts'
import { sleep } from '../retry.ts'
import { createProducer, FencedError, RewoundError, takeFence } from './producer.ts'
import {
  events,
  eventually,
  group,
  onStream,
  range,
  readAndDie,
  stream,
  testbed,
  wireTo,
} from './testbed.ts'

const cursor = { key: 'c', variants: ['c:raw', 'c:raw/'], kind: 'seq' } as const

test('entries keep their order and the cursor comes with them', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const producer = await bed.producer({ cursor })
  await Promise.all([
    producer.append({ entries: events(1, 2), cursor: '2' }),
    producer.append({ entries: events(3), cursor: '3' }),
    producer.append({ entries: events(4, 5), cursor: '5' }),
  ])
  expect(await onStream(bed.redis)).toEqual(['1', '2', '3', '4', '5'])
  expect(await producer.cursor()).toBe('5')
})

test('a seq goes only forward, as a decimal beyond what a double holds', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const producer = await bed.producer({ cursor })
  await producer.append({ entries: [], cursor: '9007199254740992' })
  await producer.append({ entries: [], cursor: '9007199254740993' })
  await producer.append({ entries: events('late'), cursor: '9007199254740992' })
  expect(await producer.cursor()).toBe('9007199254740993')
  await producer.append({ entries: [], cursor: '10000000000000000' })
  expect(await producer.cursor()).toBe('10000000000000000')
  expect(await onStream(bed.redis)).toEqual(['late'])
})

test('an opaque cursor is set to whatever comes', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const producer = await bed.producer({ cursor: { key: 'c', kind: 'opaque' } })
  await producer.append({ entries: events(1), cursor: 'zebra' })
  await producer.append({ entries: events(2), cursor: 'ant' })
  expect(await producer.cursor()).toBe('ant')
})

test('the highest variant is read; ours and those that existed at the start are written', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await server.redis.mset('c', '99', 'c:raw/', '0100')
  const producer = await bed.producer({ cursor })
  expect(await producer.cursor()).toBe('100')
  await producer.append({ entries: [], cursor: '101' })
  expect(await server.redis.mget('c', 'c:raw', 'c:raw/')).toEqual(['101', null, '101'])
})

test('whoever lost the fence appends nothing any more', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const old = await bed.producer({ cursor, fence: await takeFence(bed.redis, bed.signal) })
  await old.append({ entries: events(1), cursor: '1' })
  const young = await bed.producer({ cursor, fence: await takeFence(bed.redis, bed.signal) })
  await expect(old.append({ entries: events(2), cursor: '2' })).rejects.toThrow(FencedError)
  await expect(old.append({ entries: [] })).rejects.toThrow(FencedError)
  await young.append({ entries: events(3), cursor: '3' })
  expect(await onStream(bed.redis)).toEqual(['1', '3'])
})

test('two holders of the same number, of whom Redis has forgotten one, are told apart', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const first = await bed.producer({ fence: await takeFence(bed.redis, bed.signal) })
  await server.redis.del('ingester:fence')
  const second = await bed.producer({ fence: await takeFence(bed.redis, bed.signal) })
  await second.append({ entries: events('second') })
  await expect(first.append({ entries: events('first') })).rejects.toThrow(FencedError)
})

test('a batch whose reply was lost is sent again and stands once', async () => {
  await using server = await testRedis()
  await using wire = await wireTo(server.url)
  await using bed = testbed(wire.url)
  const producer = await bed.producer({ cursor })
  await producer.append({ entries: events(1), cursor: '1' })
  wire.loseReply('two')
  await producer.append({ entries: events('two', 'three'), cursor: '3' })
  await producer.append({ entries: events(4), cursor: '4' })
  expect(wire.lost).toBe(1)
  expect(await onStream(server.redis)).toEqual(['1', 'two', 'three', '4'])
  expect(bed.lines.map(({ msg }) => msg)).toContain(
    'a batch whose reply was lost had been appended',
  )
})

test('without a cursor and a fence, too, a re-sent batch stands once', async () => {
  await using server = await testRedis()
  await using wire = await wireTo(server.url)
  await using bed = testbed(wire.url)
  const producer = await bed.producer()
  for (const n of range(1, 5)) {
    wire.loseReply(`event-${n}`)
    await producer.append({ entries: events(`event-${n}`) })
  }
  expect(wire.lost).toBe(5)
  expect(await onStream(server.redis)).toHaveLength(5)
})

test('at the high-water mark it waits until the slowest group that counts has acknowledged', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const producer = await bed.producer({
    groups: [group, 'slow'],
    highWater: { length: 4, memoryRatio: 1 },
  })
  await producer.append({ entries: events(1, 2, 3, 4) })
  for (const name of [group, 'slow', 'abandoned'])
    await server.redis.xgroup('CREATE', stream, name, '0')
  const ids = await readAndDie(server.redis, 'x', 10)
  await server.redis.xack(stream, group, ...ids)
  let appended = false
  const appending = producer.append({ entries: events(5) }).then(() => {
    appended = true
  })
  await eventually(() => bed.metric('stream_producer_waiting', { reason: 'length' })).toBe(1)
  expect(appended).toBe(false)
  await server.redis.xreadgroup('GROUP', 'slow', 'y', 'COUNT', 2, 'STREAMS', stream, '>')
  // Some measurements later, and that nothing comes can't be waited for: read is not acknowledged.
  await sleep(500)
  expect(appended).toBe(false)
  await server.redis.xack(stream, 'slow', ids[0] ?? '')
  await appending
  expect(await bed.metric('stream_producer_waiting', { reason: 'length' })).toBe(0)
})

test('where Redis knows no lag the entries are counted', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const producer = await bed.producer({ highWater: { length: 4, memoryRatio: 1 } })
  for (const name of [group, 'other'])
    await server.redis.xgroup('CREATE', stream, name, '$', 'MKSTREAM')
  await producer.append({ entries: events(1, 2, 3, 4, 5, 6) })
  const [first, second] = await server.redis.xrange(stream, '-', '+')
  await server.redis.xgroup('SETID', stream, group, first?.[0] ?? '')
  await server.redis.xdel(stream, second?.[0] ?? '')
  const groups = (await server.redis.xinfo('GROUPS', stream)) as unknown[][]
  expect(groups[0]?.at(-1)).toBe(null) // the lag
  const appending = producer.append({ entries: events(7) })
  await eventually(() => bed.metric('stream_producer_waiting', { reason: 'length' })).toBe(1)
  const last = (await server.redis.xrevrange(stream, '+', '-', 'COUNT', 1))[0]?.[0] ?? ''
  await server.redis.xgroup('SETID', stream, group, last)
  await appending
})

test('a Redis without maxmemory is bounded by the limit given, and without one this is said once', async () => {
  await using server = await ownRedis({ args: ['--maxmemory', '0'] })
  await using bed = testbed(server.url)
  const bounded = await bed.producer({
    stream: 'bounded',
    highWater: { length: 100, memoryRatio: 0.5, memoryLimitBytes: 1_000 },
  })
  const waiting = bounded.append({ entries: events(1) })
  waiting.catch(() => {})
  await eventually(() => bed.metric('stream_producer_waiting', { reason: 'memory' })).toBe(1)
  const free = await bed.producer()
  await free.append({ entries: events(1) })
  await free.append({ entries: events(2) })
  const said = bed.lines.filter(({ msg }) => msg.startsWith('redis has no maxmemory'))
  expect(said).toHaveLength(1)
})

test('two producers of one stream pass the mark by no more than an append each', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const mark = 200
  const append = async () => {
    const producer = await bed.producer({ highWater: { length: mark, memoryRatio: 1 } })
    for (;;) await producer.append({ entries: events(1, 2, 3, 4, 5) })
  }
  for (const appending of [append(), append()]) appending.catch(() => {})
  await eventually(() => bed.metric('stream_producer_waiting', { reason: 'length' })).toBe(1)
  await eventually(() => server.redis.xlen(stream)).toBeGreaterThanOrEqual(mark)
  expect(await server.redis.xlen(stream)).toBeLessThanOrEqual(mark + 5)
})

test('an append that waits ends with the signal', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const stop = new AbortController()
  const producer = await bed.producer({
    signal: stop.signal,
    highWater: { length: 1, memoryRatio: 1 },
  })
  await producer.append({ entries: events(1) })
  const waiting = producer.append({ entries: events(2) })
  stop.abort()
  await expect(waiting).rejects.toThrow('aborted')
  expect(await onStream(bed.redis)).toEqual(['1'])
})

test('a flush is noticed by the next append, even by an empty one', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const producer = await bed.producer({ cursor })
  await producer.append({ entries: events(1), cursor: '1' })
  await server.redis.flushdb()
  const error = await producer.append({ entries: [] }).catch((thrown: unknown) => thrown)
  expect(error).toBeInstanceOf(RewoundError)
  expect((error as RewoundError).cursor).toBe(null)
  await producer.append({ entries: events(1), cursor: '1' })
  expect(await onStream(bed.redis)).toEqual(['1'])
})

test('a flush between opening and the first append is noticed', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await server.redis.set('c', '100')
  const producer = await bed.producer({ cursor })
  expect(await producer.cursor()).toBe('100')
  await server.redis.flushdb()
  await expect(producer.append({ entries: events(101), cursor: '101' })).rejects.toThrow(
    RewoundError,
  )
  expect(await onStream(bed.redis)).toEqual([])
})

test('a stream that was deleted is noticed though its cursor stands', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const producer = await bed.producer({ cursor })
  await producer.append({ entries: events(1), cursor: '1' })
  await server.redis.del(stream)
  await expect(producer.append({ entries: events(2), cursor: '2' })).rejects.toThrow(RewoundError)
})

test('what began before Redis went back appends nothing after it', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const producer = await bed.producer()
  const { epoch } = producer
  await producer.append({ entries: events('repo a, 1'), epoch })
  await server.redis.flushdb()
  await expect(producer.append({ entries: events('repo b, 1'), epoch })).rejects.toThrow(
    RewoundError,
  )
  await expect(producer.append({ entries: events('repo a, 2'), epoch })).rejects.toThrow(
    RewoundError,
  )
  expect(await onStream(bed.redis)).toEqual([])
  await producer.append({ entries: events('repo a, 1'), epoch: producer.epoch })
  expect(await onStream(bed.redis)).toEqual(['repo a, 1'])
})

test('a fault of ours is thrown, not waited for', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await server.redis.set(stream, 'not a stream')
  await expect(bed.producer()).rejects.toThrow('WRONGTYPE')
})

test('a producer can be opened while Redis is away', async () => {
  await using server = await testRedis()
  const url = new URL(server.url)
  url.port = '1'
  await using bed = testbed(url.href)
  const opening = createProducer({
    ...{ redis: bed.redis, stream, groups: [group], signal: bed.signal },
    ...{ highWater: { length: 1, memoryRatio: 1 }, log: bed.log, metrics: bed.metrics },
  })
  opening.catch(() => {})
  await eventually(() => bed.metric('stream_producer_waiting', { reason: 'away' })).toBe(1)
})
