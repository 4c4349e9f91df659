/** The producer and the consumer together. */
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { expect, test } from 'vitest'
import { testRedis } from '../../test/servers/redis.ts'
import { connectRedis } from '../redis.ts'
import { consume } from './consumer.ts'
import { ledgerBalance } from './ledger.ts'
import { streamMetrics } from './metrics.ts'
import { createProducer, takeFence } from './producer.ts'
import { eventually } from './testbed.ts'

test('what is appended is applied once and leaves nothing behind', async () => {
  await using server = await testRedis()
  const log = pino({ level: 'silent' })
  const metrics = streamMetrics(new Registry(), 'test')
  await using redis = connectRedis({ redisUrl: server.url, log })
  const stop = new AbortController()
  const signal = stop.signal
  const producer = await createProducer({
    redis,
    stream: 's',
    cursor: { key: 's:cursor:h', variants: ['s:cursor:h/'], kind: 'seq' },
    fence: await takeFence(redis, signal),
    highWater: { length: 100_000, memoryRatio: 0.8 },
    groups: ['g'],
    signal,
    log,
    metrics,
  })
  expect(await producer.cursor()).toBe(null)
  for (let i = 0; i < 20; i++)
    await producer.append({
      entries: Array.from({ length: 500 }, (_, n) => ['event', String(i * 500 + n)]),
      cursor: String(i * 500 + 499),
    })
  const seen: number[] = []
  const running = consume<number>({
    redis,
    stream: 's',
    group: 'g',
    name: 'one',
    batchSize: 500,
    concurrency: 2,
    decode: (fields) => Number(fields[1]),
    lane: (n) => String(n % 7),
    apply: async (entries) => {
      seen.push(...entries.map(({ event }) => event))
      return entries.map(() => 'applied')
    },
    streamGroups: new Map(),
    deadLetterMaxLength: 10,
    signal,
    log,
    metrics,
  })
  await eventually(() => seen.length).toBe(10_000)
  stop.abort()
  await running
  expect(new Set(seen).size).toBe(10_000)
  expect(await server.redis.get('s:cursor:h')).toBe('9999')
  expect(await server.redis.xlen('s')).toBe(0)
  expect(await ledgerBalance(server.redis, 's', 'g')).toMatchObject({
    added: 10_000,
    applied: 10_000,
    balanced: true,
  })
})
