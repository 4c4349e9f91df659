/** Appends that wait for each other go as one, and each ends as it would have by itself. */
import { expect, test } from 'vitest'
import { RewoundError } from '../shared/streams/producer.ts'
import { events, onStream, testbed } from '../shared/streams/testbed.ts'
import { testRedis } from '../test/servers/redis.ts'
import { createAppender } from './together.ts'

const numbers = (count: number) => Array.from({ length: count }, (_, number) => number)

test('appends at the same time go together, in their order, so many entries and bytes at once', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const producer = await bed.producer()
  const sizes: number[] = []
  const counted = {
    ...producer,
    append: (batch: Parameters<typeof producer.append>[0]) => {
      sizes.push(batch.entries.length)
      return producer.append(batch)
    },
  }
  const appender = createAppender(counted, { entries: 10, bytes: 1_000 })
  const parts = [3, 4, 5, 1, 25, 2, 2, 1]
  const epoch = producer.epoch
  await Promise.all(
    parts.map((length, part) => {
      const entries = numbers(length).flatMap((one) => events(`${part}.${one}`))
      return appender.append({ entries, bytes: length === 1 ? 999 : 1, epoch })
    }),
  )
  const all = parts.flatMap((length, part) => numbers(length).map((one) => `${part}.${one}`))
  expect(await onStream(bed.redis)).toEqual(all)
  expect(sizes).toEqual([3, 9, 1, 25, 4, 1])
})

test('a Redis that has gone back is told to all who were in the append, and to those of before it', async () => {
  await using server = await testRedis()
  await using bed = testbed(server.url)
  const producer = await bed.producer()
  const appender = createAppender(producer, { entries: 100, bytes: 1_000 })
  const { epoch } = appender
  await appender.append({ entries: events('first'), bytes: 1, epoch })
  await server.redis.flushdb()
  const lost = numbers(4).map((one) => appender.append({ entries: events(one), bytes: 1, epoch }))
  for (const end of await Promise.allSettled(lost)) {
    expect(end).toMatchObject({ status: 'rejected', reason: expect.any(RewoundError) })
  }
  const old = appender.append({ entries: events('old'), bytes: 1, epoch })
  const again = appender.append({ entries: events('again'), bytes: 1, epoch: appender.epoch })
  await expect(old).rejects.toThrow(RewoundError)
  await again
  expect(await onStream(bed.redis)).toEqual(['again'])
})
