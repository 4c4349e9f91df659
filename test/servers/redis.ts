/** Redis for tests: an empty database on the run's server, or a private server to break. */
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { inject } from 'vitest'
import { findPlaces } from '../../start/places.ts'
import { freePort } from '../../start/process.ts'
import { type EmbeddedRedis, startRedis } from '../../start/redis.ts'
import { env } from '../env.ts'

export interface TestRedis {
  /** Names the database, for clients of the test's own. */
  url: string
  redis: Redis
  [Symbol.asyncDispose](): Promise<void>
}

// Database 0 holds who has which; a lease outlives any test file, and ends by itself after a crash.
const leaseMs = 30 * 60_000

/** An empty database that no other test has; emptied and given back when disposed. */
export async function testRedis(): Promise<TestRedis> {
  const { redisUrl } = inject('servers')
  const number = await leaseDatabase(redisUrl)
  const url = new URL(redisUrl)
  url.pathname = `/${number}`
  const redis = new Redis(url.href, { protocol: 2 })
  redis.on('error', () => {})
  await redis.flushdb()
  return {
    url: url.href,
    redis,
    async [Symbol.asyncDispose]() {
      redis.disconnect()
      await withLeases(redisUrl, async (leases) => {
        await leases.select(number)
        await leases.flushdb()
        await leases.select(0)
        await leases.del(leaseKey(number))
      })
    },
  }
}

function leaseKey(number: number): string {
  return `sluice:test:database:${number}`
}

async function leaseDatabase(redisUrl: string): Promise<number> {
  return withLeases(redisUrl, async (leases) => {
    const reply = (await leases.config('GET', 'databases')) as string[]
    const databases = Number(reply[1] ?? 16)
    for (let number = 1; number < databases; number++) {
      if (await leases.set(leaseKey(number), '1', 'PX', leaseMs, 'NX')) return number
    }
    throw new Error(`all ${databases} databases of the test Redis are taken`)
  })
}

async function withLeases<T>(redisUrl: string, work: (leases: Redis) => Promise<T>): Promise<T> {
  const leases = new Redis(redisUrl, { protocol: 2, db: 0 })
  try {
    return await work(leases)
  } finally {
    leases.disconnect()
  }
}

/** A redis-server process of the test's own, always embedded, with one port for all its lives. */
export interface OwnRedis {
  readonly url: string
  readonly port: number
  /** Where its append-only file is. */
  readonly dir: string
  /** Ends it in order: its data is on disk. */
  stop(): Promise<void>
  /** Kills it (SIGKILL). */
  kill(): Promise<void>
  /** Starts it again on the same data and port, with these arguments added for this and later lives. */
  start(args?: readonly string[]): Promise<void>
  /** Freezes it: connections stay open, and nothing answers. */
  pause(): void
  resume(): void
  [Symbol.asyncDispose](): Promise<void>
}

/** Starts a private Redis; `args` as on redis-server's command line; a `dir` given is kept. */
export async function ownRedis(
  options: { args?: readonly string[]; dir?: string } = {},
): Promise<OwnRedis> {
  const places = await findPlaces(env)
  const port = await freePort()
  const dir = options.dir ?? (await mkdtemp(join(inject('servers').folder, 'redis-')))
  if (options.dir === undefined) await chmod(dir, 0o755)
  const args = [...(options.args ?? [])]
  let server: EmbeddedRedis | null = await startRedis({ places, dir, port, args })

  const end = async (signal: 'SIGTERM' | 'SIGKILL') => {
    const ending = server
    server = null
    if (ending === null) return
    // A frozen process takes no other signal than SIGKILL.
    process.kill(ending.pid, 'SIGCONT')
    process.kill(ending.pid, signal)
    await ending.stop()
  }
  const signal = (name: 'SIGSTOP' | 'SIGCONT') => {
    if (server === null) throw new Error('this Redis is not running')
    process.kill(server.pid, name)
  }
  return {
    url: `redis://127.0.0.1:${port}`,
    port,
    dir,
    stop: () => end('SIGTERM'),
    kill: () => end('SIGKILL'),
    async start(more = []) {
      if (server !== null) throw new Error('this Redis is running')
      args.push(...more)
      server = await startRedis({ places, dir, port, args })
    },
    pause: () => signal('SIGSTOP'),
    resume: () => signal('SIGCONT'),
    async [Symbol.asyncDispose]() {
      await end('SIGKILL')
      if (options.dir === undefined) await rm(dir, { recursive: true, force: true })
    },
  }
}
