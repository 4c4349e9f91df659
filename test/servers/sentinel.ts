/** Redis with Sentinel for a test: a master, its replica, and three Sentinels that watch them. */
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { expect, inject } from 'vitest'
import { findPlaces } from '../../start/places.ts'
import { freePort, type ServerProcess, startServer } from '../../start/process.ts'
import { findRedis } from '../../start/redis.ts'
import { env } from '../env.ts'
import { type OwnRedis, ownRedis } from './redis.ts'

export interface Sentinels extends AsyncDisposable {
  /** Names the Sentinels, for a worker. */
  readonly url: string
  /** The master at the beginning, and its replica. */
  readonly first: OwnRedis
  readonly second: OwnRedis
  /** Resolves when the Sentinels agree that this one is master. */
  agreed(master: OwnRedis): Promise<void>
}

const master = 'streams'
const patience = { timeout: 60_000 }

/** Resolves when the replica has what the master has, and every Sentinel knows of the others. */
export async function startSentinels(args: readonly string[] = []): Promise<Sentinels> {
  const resources = new AsyncDisposableStack()
  try {
    const first = resources.use(await ownRedis({ args }))
    const replica = ['--replicaof', '127.0.0.1', String(first.port)]
    const second = resources.use(await ownRedis({ args: [...args, ...replica] }))
    await synchronised(second)
    const clients: Redis[] = []
    for (let number = 0; number < 3; number += 1) {
      const port = await freePort()
      resources.use(await startSentinel(port, first.port))
      const client = new Redis({ host: '127.0.0.1', port, protocol: 2 })
      client.on('error', () => {})
      resources.defer(() => client.disconnect())
      clients.push(client)
    }
    const state = async () => {
      const infos = await Promise.all(
        clients.map((client) => client.call('SENTINEL', 'MASTER', master)),
      )
      return infos.map(fields)
    }
    const ready = { flags: 'master', 'num-slaves': '1', 'num-other-sentinels': '2' }
    await expect.poll(state, patience).toMatchObject([ready, ready, ready])
    const sentinels = clients.map(({ options }) => `127.0.0.1:${options.port}`).join(',')
    return {
      url: `redis://${master}?sentinels=${sentinels}`,
      first,
      second,
      async agreed({ port }) {
        const agreed = { port: String(port), flags: 'master' }
        await expect.poll(state, patience).toMatchObject([agreed, agreed, agreed])
      },
      [Symbol.asyncDispose]: () => resources.disposeAsync(),
    }
  } catch (error) {
    await resources.disposeAsync()
    throw error
  }
}

/** Redis waits some seconds for other replicas before it sends one its data. */
async function synchronised({ url }: OwnRedis): Promise<void> {
  const replica = new Redis(url, { protocol: 2 })
  try {
    const link = () => replica.info('replication')
    await expect.poll(link, patience).toContain('master_link_status:up')
  } finally {
    replica.disconnect()
  }
}

async function startSentinel(
  port: number,
  masterPort: number,
): Promise<ServerProcess & AsyncDisposable> {
  const program = await findRedis(await findPlaces(env))
  const dir = await mkdtemp(join(inject('servers').folder, 'sentinel-'))
  await chmod(dir, 0o755)
  // Sentinel rewrites this file.
  await writeFile(
    join(dir, 'sentinel.conf'),
    [
      'bind 127.0.0.1',
      `port ${port}`,
      'dir .',
      `sentinel monitor ${master} 127.0.0.1 ${masterPort} 2`,
      `sentinel down-after-milliseconds ${master} 1000`,
      `sentinel failover-timeout ${master} 5000`,
      '',
    ].join('\n'),
  )
  const server = await startServer({
    name: 'Sentinel',
    command: program.command,
    args: ['sentinel.conf', '--sentinel'],
    cwd: dir,
    env: { LC_ALL: 'C', ...program.env },
    logFile: join(dir, 'sentinel.log'),
    isReady: () => answers(port),
    readyWithinMs: 20_000,
    stopSteps: [
      ['SIGTERM', 2_000],
      ['SIGKILL', 500],
    ],
  })
  const dispose = async () => {
    await server.stop()
    await rm(dir, { recursive: true, force: true })
  }
  return { ...server, [Symbol.asyncDispose]: dispose }
}

async function answers(port: number): Promise<boolean> {
  const client = new Redis({
    ...{ host: '127.0.0.1', port, protocol: 2, lazyConnect: true, retryStrategy: () => null },
  })
  client.on('error', () => {})
  const answer = await client.connect().then(
    () => true,
    () => false,
  )
  client.disconnect()
  return answer
}

/** Names and values in turn, as an object. */
function fields(reply: unknown): Record<string, string> {
  const list = reply as string[]
  return Object.fromEntries(
    list.flatMap((name, at) => (at % 2 === 0 ? [[name, list[at + 1] ?? '']] : [])),
  )
}
