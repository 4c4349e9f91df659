/** What the embedded Redis promises. */
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { expect, test } from 'vitest'
import { env } from '../test/env.ts'
import { bareCheckout, homeOf, nobody, startParent, testFolder } from './parent.fixture.ts'
import { findPlaces } from './places.ts'
import { isAlive } from './process.ts'
import { findRedis, NoRedisError, startRedis } from './redis.ts'

const isRoot = process.getuid?.() === 0

async function ask<T>(url: string, question: (redis: Redis) => Promise<T>): Promise<T> {
  const redis = new Redis(url, { protocol: 2 })
  try {
    return await question(redis)
  } finally {
    redis.disconnect()
  }
}

test('keeps what was written through a stop and a start, in a folder with spaces', async () => {
  await using folder = await testFolder()
  const places = await findPlaces(env)
  {
    await using redis = await startRedis({ places, dir: folder.path })
    await ask(redis.url, (client) => client.set('key', 'value'))
  }
  await using redis = await startRedis({ places, dir: folder.path })
  expect(await ask(redis.url, (client) => client.get('key'))).toBe('value')
})

test('listens on loopback only, appends to a file, and never evicts', async () => {
  await using folder = await testFolder()
  await using redis = await startRedis({ places: await findPlaces(env), dir: folder.path })
  const setting = async (name: string) =>
    ask(redis.url, async (client) => ((await client.config('GET', name)) as string[])[1])
  expect(await setting('bind')).toBe('127.0.0.1')
  expect(await setting('appendonly')).toBe('yes')
  expect(await setting('maxmemory-policy')).toBe('noeviction')
  expect(Number(await setting('maxmemory'))).toBeGreaterThan(0)
})

test('ends the server that a killed parent has left, and keeps its data and its port', async () => {
  await using folder = await testFolder()
  const left = await startParent({ server: 'redis', dir: folder.path })
  await ask(left.url, (client) => client.set('key', 'value'))
  await left.kill()
  expect(await isAlive(left.pid)).toBe(true)

  await using redis = await startRedis({ places: await findPlaces(env), dir: folder.path })
  expect(await isAlive(left.pid)).toBe(false)
  expect(redis.port).toBe(left.port)
  expect(await ask(redis.url, (client) => client.get('key'))).toBe('value')
})

test('a pid file that names a stranger costs the stranger nothing', async () => {
  await using folder = await testFolder()
  const places = await findPlaces(env)
  await using stranger = await startRedis({ places, dir: join(folder.path, 'stranger') })
  const dir = join(folder.path, 'own')
  await (await startRedis({ places, dir })).stop()
  await writeFile(join(dir, 'redis.pid'), String(stranger.pid))

  await using _redis = await startRedis({ places, dir })
  expect(await isAlive(stranger.pid)).toBe(true)
})

test('takes another port when the one of last time is taken', async () => {
  await using folder = await testFolder()
  const places = await findPlaces(env)
  const first = await startRedis({ places, dir: join(folder.path, 'first') })
  await first.stop()
  const dir = join(folder.path, 'second')
  await using _taker = await startRedis({ places, dir, port: first.port })
  await using again = await startRedis({ places, dir: first.dir })
  expect(again.port).not.toBe(first.port)
})

test('a server that can not start is told with the last words of its log', async () => {
  await using folder = await testFolder()
  const places = await findPlaces(env)
  const starting = startRedis({ places, dir: folder.path, args: ['--no-such-setting', '1'] })
  await expect(starting).rejects.toThrow(/Redis ended while starting.*no-such-setting/s)
})

test('stops within its time and leaves no pid file', async () => {
  await using folder = await testFolder()
  const redis = await startRedis({ places: await findPlaces(env), dir: folder.path })
  await redis.stop()
  expect(await isAlive(redis.pid)).toBe(false)
  await expect(readFile(join(folder.path, 'redis.pid'))).rejects.toThrow('ENOENT')
})

test('without a Redis and without a way to get one, says what to install', async () => {
  await using folder = await testFolder()
  const finding = findRedis({ cache: folder.path, path: [] })
  await expect(finding).rejects.toThrow(NoRedisError)
  await expect(finding).rejects.toThrow(/apt-get install redis-server.*brew install redis/)
})

test('two processes that prepare the program at once both get it', async () => {
  await using folder = await testFolder()
  const { path } = await findPlaces(env)
  const places = { cache: folder.path, path }
  const [one, other] = await Promise.all([findRedis(places), findRedis(places)])
  expect(one.command).toBe(other.command)
  await using _redis = await startRedis({ places, dir: join(folder.path, 'data'), program: other })
})

test.runIf(isRoot)('an ordinary user gets a Redis without any rights', async () => {
  await using folder = await testFolder()
  const { checkout, node } = await bareCheckout(folder.path)
  const home = await homeOf(folder.path, nobody)
  const dir = join(home, 'the data')
  const own = { HOME: home, XDG_CACHE_HOME: '' }
  await using redis = await startParent({
    server: 'redis',
    dir,
    checkout,
    node,
    identity: nobody,
    env: own,
  })
  expect(redis.cache).toBe(join(home, '.cache', 'sluice'))
  expect(await ask(redis.url, (client) => client.ping())).toBe('PONG')
  expect(await redis.end()).toBe(0)
})
