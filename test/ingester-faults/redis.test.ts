/** Redis fails under a living ingester: what it had lost is read again, and stands there once. */
import { cp, readdir, rm, stat, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { startProxy } from '../servers/proxy.ts'
import { type OwnRedis, ownRedis } from '../servers/redis.ts'
import { type FaultRoom, openFaultRoom, patience } from './room.ts'

interface Case {
  fault: string
  /** Lets it fail and brings it back; throws when it did not fail. */
  during: (redis: OwnRedis, room: FaultRoom) => Promise<void>
  /** How often the ingester must have noticed that Redis has gone back. */
  rewound?: number
}

const cases: readonly Case[] = [
  {
    fault: 'killed, and started again',
    during: async (redis) => {
      await redis.kill()
      await redis.start()
    },
  },
  {
    fault: 'killed three times in a row',
    during: async (redis, room) => {
      for (let time = 0; time < 3; time += 1) {
        await redis.kill()
        await redis.start()
        await room.progress()
      }
    },
  },
  {
    fault: 'killed, and the last it wrote is lost, in the middle of a command',
    during: async (redis, room) => {
      const before = await size(redis)
      await room.progress()
      const cursor = await room.cursor()
      await redis.kill()
      await truncate(await appendOnly(redis), before + 7)
      await redis.start()
      expect(await room.cursor()).toBeLessThan(cursor)
    },
    rewound: 1,
  },
  {
    fault: 'restored from an older copy',
    during: async (redis, room) => {
      const files = join(redis.dir, 'appendonlydir')
      const older = join(redis.dir, 'older')
      await cp(files, older, { recursive: true })
      await room.progress()
      await redis.kill()
      await rm(files, { recursive: true })
      await cp(older, files, { recursive: true })
      await redis.start()
    },
    rewound: 1,
  },
  {
    fault: 'emptied',
    during: async (_, { redis }) => void (await redis.flushall()),
    rewound: 1,
  },
  {
    fault: 'full, and with room again',
    during: async (_, room) => {
      await room.redis.config('SET', 'maxmemory', '1mb')
      await expect(room.redis.set('more', 'bytes')).rejects.toThrow(/^OOM/)
      const stuck = await room.cursor()
      const { relay } = room.network
      await expect.poll(() => relay.lastSeq, patience).toBeGreaterThan(stuck + 40)
      await room.redis.config('SET', 'maxmemory', '0')
    },
  },
  {
    fault: 'paused, and it goes on',
    during: async (redis, { network: { relay } }) => {
      redis.pause()
      const seq = relay.lastSeq
      await expect.poll(() => relay.lastSeq, patience).toBeGreaterThan(seq + 40)
      redis.resume()
    },
  },
]

test.each(cases)(
  'Redis is $fault',
  { timeout: 120_000 },
  async ({ fault, during, rewound = 0 }) => {
    await using redis = await ownRedis({ args: ['--appendfsync', 'always'] })
    await using room = await openFaultRoom({ redisUrl: redis.url, network: { seed: fault } })
    const ingester = room.start()
    await room.liveDuring(async () => {
      await room.progress()
      await during(redis, room)
    })
    expect(await room.judge()).toEqual([])
    expect(await ingester.metric('ingester_stream_rewound_total')).toBe(rewound)
  },
)

test('the connection to Redis is slow, then silent, then cut', { timeout: 120_000 }, async () => {
  await using redis = await ownRedis()
  await using proxy = await startProxy({ port: redis.port })
  await using room = await openFaultRoom({
    ...{ redisUrl: redis.url, throughUrl: proxy.through(redis.url), network: { seed: 'proxy' } },
  })
  const ingester = room.start()
  await room.liveDuring(async () => {
    proxy.latency(30)
    await room.progress()
    proxy.latency(0)
    proxy.blackhole(true)
    await expect.poll(() => proxy.fired.blackhole, patience).toBeGreaterThan(0)
    proxy.cut()
    proxy.blackhole(false)
    await room.progress()
  })
  expect(await room.judge()).toEqual([])
  expect(proxy.fired).toMatchObject({ latency: expect.any(Number), cut: expect.any(Number) })
  expect(await ingester.metric('ingester_stream_rewound_total')).toBe(0)
})

/** The file that the newest commands are appended to. */
async function appendOnly(redis: OwnRedis): Promise<string> {
  const folder = join(redis.dir, 'appendonlydir')
  const name = (await readdir(folder)).find((file) => file.endsWith('.incr.aof'))
  if (name === undefined) throw new Error('Redis has no append-only file')
  return join(folder, name)
}

async function size(redis: OwnRedis): Promise<number> {
  return (await stat(await appendOnly(redis))).size
}
