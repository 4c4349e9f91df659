/** Trimming, on a real Redis. */
import { expect, test } from 'vitest'
import { testRedis } from '../../test/servers/redis.ts'
import { ledgerBalance } from './ledger.ts'
import {
  events,
  eventually,
  group,
  onStream,
  range,
  readAndDie,
  stream,
  type Testbed,
  testbed,
} from './testbed.ts'
import { createTrimReport, trimStream } from './trim.ts'

async function aStream(bed: Testbed, groups: string[]): Promise<void> {
  await (await bed.producer()).append({ entries: events(...range(1, 10)) })
  for (const name of groups) await bed.redis.xgroup('CREATE', stream, name, '0')
}

test('nothing above the oldest pending entry of any group that counts is trimmed', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await aStream(bed, [group, 'slow'])
  const ids = await readAndDie(bed.redis, 'x', 10)
  await bed.redis.xack(stream, group, ...ids.slice(0, 6), ...ids.slice(7))
  await bed.redis.xreadgroup('GROUP', 'slow', 'y', 'COUNT', 3, 'STREAMS', stream, '>')
  await bed.redis.xack(stream, 'slow', ids[0] ?? '', ids[1] ?? '')
  expect((await trimStream(bed.redis, stream, [group, 'slow'])).removed).toBe(2)
  expect(await onStream(bed.redis)).toEqual(range(3, 10).map(String))
  await bed.redis.xack(stream, 'slow', ids[2] ?? '')
  await trimStream(bed.redis, stream, [group, 'slow'])
  expect(await onStream(bed.redis)).toEqual(range(4, 10).map(String))
  await bed.redis.xreadgroup('GROUP', 'slow', 'y', 'STREAMS', stream, '>')
  await bed.redis.xack(stream, 'slow', ...ids)
  await trimStream(bed.redis, stream, [group, 'slow'])
  expect(await onStream(bed.redis)).toEqual(range(7, 10).map(String))
  await bed.redis.xack(stream, group, ...ids)
  await trimStream(bed.redis, stream, [group, 'slow'])
  expect(await onStream(bed.redis)).toEqual([])
})

test('a named group that is not there yet holds trimming', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await aStream(bed, [group])
  await bed.redis.xack(stream, group, ...(await readAndDie(bed.redis, 'x', 10)))
  expect(await trimStream(bed.redis, stream, [group, 'late'])).toEqual({
    ...{ removed: 0, unnamed: [], missing: ['late'] },
  })
  expect(await bed.redis.xlen(stream)).toBe(10)
})

test('a group that is not named holds trimming and is reported by name, once a minute', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await aStream(bed, [group, 'prod_stream'])
  await bed.redis.xack(stream, group, ...(await readAndDie(bed.redis, 'x', 10)))
  let now = 0
  const report = createTrimReport({ stream, log: bed.log, metrics: bed.metrics, now: () => now })
  for (const seconds of [0, 5, 59, 61]) {
    now = seconds * 1_000
    report(await trimStream(bed.redis, stream, [group]))
  }
  expect(await bed.redis.xlen(stream)).toBe(10)
  expect(bed.lines.filter(({ msg }) => msg.startsWith('trimming is held'))).toMatchObject([
    { unnamed: ['prod_stream'] },
    { unnamed: ['prod_stream'] },
  ])
  const labels = { stream, group: 'prod_stream' }
  expect(await bed.metric('stream_unnamed_group', labels)).toBe(1)
  await bed.redis.xgroup('DESTROY', stream, 'prod_stream')
  report(await trimStream(bed.redis, stream, [group]))
  expect(await bed.metric('stream_unnamed_group', labels)).toBe(undefined)
  expect(await bed.redis.xlen(stream)).toBe(0)
})

test('a stream or group that nobody has made is no failure', async () => {
  await using server = await testRedis()
  expect(await trimStream(server.redis, stream, [group])).toMatchObject({ removed: 0 })
})

test('two groups, one slow and one abandoned: what the slow one needs stays, the abandoned one is named', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const named = [group, 'slow']
  const producer = await bed.producer({ groups: named, highWater: { length: 20, memoryRatio: 1 } })
  await server.redis.xgroup('CREATE', stream, 'abandoned', '0', 'MKSTREAM')
  const streamGroups = new Map([[stream, named]])
  const { promise: released, resolve: release } = Promise.withResolvers<void>()
  const fast = bed.consumer({ streamGroups })
  const slow = bed.consumer({
    ...{ group: 'slow', name: 's', batchSize: 1, streamGroups },
    apply: async (entries) => {
      await released
      return entries.map(() => 'applied')
    },
  })
  const all = range(1, 40).map(String)
  const appending = (async () => {
    for (const event of all) await producer.append({ entries: events(event) })
  })()
  await eventually(() => bed.metric('stream_producer_waiting', { reason: 'length' })).toBe(1)
  await eventually(() => fast.seen().length).toBe(20)
  await eventually(() => bed.metric('stream_unnamed_group', { group: 'abandoned' })).toBe(1)
  expect(await bed.redis.xlen(stream)).toBe(20)
  expect(slow.seen()).toEqual([])
  release()
  await appending
  await eventually(slow.seen).toEqual(all)
  await eventually(fast.seen).toEqual(all)
  expect(await bed.redis.xlen(stream)).toBe(40)
  await server.redis.xgroup('DESTROY', stream, 'abandoned')
  await eventually(() => server.redis.xlen(stream)).toBe(0)
  for (const name of named)
    expect(await ledgerBalance(server.redis, stream, name)).toMatchObject({
      applied: 40,
      balanced: true,
    })
})

test('what is acknowledged is not deleted while any other group is there, named or not', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  await aStream(bed, [group, 'prod_stream'])
  const consumer = bed.consumer()
  await eventually(() => consumer.seen().length).toBe(10)
  await consumer.stop()
  expect(await bed.redis.xlen(stream)).toBe(10)
})
