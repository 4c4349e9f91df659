/** What a failed command of Redis means. */
import { Redis } from 'ioredis'
import { expect, test } from 'vitest'
import { ownRedis } from '../test/servers/redis.ts'
import { redisFailure } from './redis.ts'

test('a transaction that a full Redis discards says that it is full, any other that it is a fault', async () => {
  await using server = await ownRedis({ args: ['--maxmemory-policy', 'noeviction'] })
  const redis = new Redis(server.url, { protocol: 2 })
  await using _ = { [Symbol.asyncDispose]: async () => redis.disconnect() }
  const failure = (step: ReturnType<typeof redis.multi>) =>
    step.exec().then(() => 'none', redisFailure)
  expect(await failure(redis.multi().del('a').call('nonsense'))).toBe('fault')
  await redis.config('SET', 'maxmemory', '1')
  expect(await failure(redis.multi().del('a').hset('a', { b: 'c' }).expire('a', 30))).toBe('full')
  await redis.config('SET', 'maxmemory', '0')
  expect(await failure(redis.multi().hset('a', { b: 'c' }))).toBe('none')
})
