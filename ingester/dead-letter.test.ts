import { expect, test } from 'vitest'
import { createLog } from '../shared/log.ts'
import { connectRedis } from '../shared/redis.ts'
import { startNetwork } from '../simulator/network.ts'
import { ownRedis } from '../test/servers/redis.ts'
import { createDeadLetters } from './dead-letter.ts'
import { patience, startIngester, testRoom } from './testing.ts'

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

test('a full stream of dead letters stops the intake with an alarm, until there is room; nothing is trimmed', async () => {
  await using room = await testRoom(await startNetwork())
  const { network, redis } = room
  const account = await network.account()
  const env = { ...room.env, DLQ_MAX_LENGTH: '2' }
  await using ingester = startIngester(env)
  await room.caughtUp()
  await redis.xadd('firehose_live_dlq', '*', 'reason', 'older')
  await redis.xadd('firehose_live_dlq', '*', 'reason', 'older')
  const before = await room.cursor()
  await network.relay.play([Buffer.from('not a frame')])
  await account.create('app.bsky.feed.post', { text: 'behind', createdAt: network.clock.iso() })
  const alarm = () => ingester.log.find(({ msg }) => msg.includes('stream is full'))
  await expect.poll(alarm, patience).toMatchObject({ level: 'error' })
  expect(await redis.xlen('firehose_live_dlq')).toBe(2)
  expect(await room.cursor()).toBe(before)
  await redis.del('firehose_live_dlq')
  await room.caughtUp()
  const letters = await redis.xrange('firehose_live_dlq', '-', '+')
  expect(letters.map(([, fields]) => fields[1])).toEqual(['frame'])
})
