/** What the tests' servers promise to the tests. */
import { Redis } from 'ioredis'
import { expect, test } from 'vitest'
import { testDatabase } from './postgres.ts'
import { ownRedis, testRedis } from './redis.ts'

test('two tests never share a Redis database', async () => {
  await using one = await testRedis()
  await using other = await testRedis()
  await one.redis.set('key', 'value')
  expect(await other.redis.get('key')).toBeNull()
})

test('two tests never share a Postgres database', async () => {
  await using one = await testDatabase()
  await using other = await testDatabase()
  await one.sql`create table public.mine (id int)`
  const [found] = await other.sql`select to_regclass('public.mine') as name`
  expect(found?.['name']).toBeNull()
})

test('a private Redis keeps its data and its port through kill, stop and pause', async () => {
  await using own = await ownRedis({ args: ['--appendfsync', 'always'] })
  const redis = new Redis(own.url, { protocol: 2, retryStrategy: () => 50 })
  redis.on('error', () => {})
  await redis.set('key', 'value')
  await own.kill()
  await own.start()
  await own.stop()
  await own.start()
  own.pause()
  own.resume()
  expect(await redis.get('key')).toBe('value')
  redis.disconnect()
})
