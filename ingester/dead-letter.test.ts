import { expect, test } from 'vitest'
import { createLog } from '../shared/log.ts'
import { connectRedis } from '../shared/redis.ts'
import { ownRedis } from '../test/servers/redis.ts'
import { createDeadLetters } from './dead-letter.ts'

test('a dead letter waits for a Redis that is away, and is written once it is back', async () => {
  await using server = await ownRedis()
  const log = createLog('ingester', 'silent')
  await using redis = connectRedis({ redisUrl: server.url, log })
  const { signal } = new AbortController()
  const letters = createDeadLetters({ redis, stream: 'firehose_live', maxLength: 10, signal, log })
  await server.kill()
  const written = letters.write({ reason: 'frame', frame: 'AAAA' })
  await server.start()
  await written
  const [letter] = await redis.xrange('firehose_live_dlq', '-', '+')
  expect(letter?.[1].slice(0, 4)).toEqual(['reason', 'frame', 'frame', 'AAAA'])
})
