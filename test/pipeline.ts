/** The whole pipeline for a test: the simulated network, Redis, Postgres, and workers as real processes. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { Redis } from 'ioredis'
import postgres, { type Sql } from 'postgres'
import { expect, vi } from 'vitest'
import { resyncKind } from '../indexer/accounts.ts'
import { kinds } from '../indexer/rules/keys.ts'
import { readState } from '../shared/streams/state.ts'
import { type Network, type NetworkOptions, startNetwork } from '../simulator/network.ts'
import { testDatabase } from './servers/postgres.ts'
import { testRedis } from './servers/redis.ts'

export type Service = 'ingester' | 'indexer' | 'backfiller'

/** A worker process that serves its metrics. */
export interface RunningWorker {
  readonly child: ChildProcess
  /** Everything it has printed. */
  readonly output: () => string
  readonly metricsUrl: string
  /** Ends it with SIGTERM and gives its exit code. */
  stop: () => Promise<number | null>
  /** Ends it with SIGKILL: nothing of it runs on. */
  kill: () => Promise<void>
  /** Resolves when `/ready` says so. */
  ready: () => Promise<void>
  /** The sum of a metric over its labels, as `/metrics` shows it now. */
  metric: (name: string) => Promise<number>
}

export interface Pipeline extends AsyncDisposable {
  readonly network: Network
  readonly redis: Redis
  readonly redisUrl: string
  readonly sql: Sql
  readonly databaseUrl: string
  /** The settings that every worker here is started with. */
  readonly environment: Readonly<Record<string, string>>
  /** Starts a worker with this network's settings and these. */
  start: (service: Service, env?: Record<string, string>) => Promise<RunningWorker>
  /** Resolves when the group has been given everything in the stream, has acknowledged it, and has left nothing to the rules. */
  drained: (stream: string, group: string) => Promise<void>
  /** Entries delivered to the group and not acknowledged. */
  pending: (stream: string, group: string) => Promise<number>
  /** Entries that the group has not acknowledged, delivered or not; of a group to come, the stream's length. */
  left: (stream: string, group: string) => Promise<number>
}

/** Servers of the test's own; without them the run's, and a database there that nobody else has. */
export interface Servers {
  redis?: { url: string }
  /** With a migrated database. */
  postgres?: { url: string }
  /** What the workers are told, given where Redis is: the address of a proxy, say. */
  workersRedisUrl?: (url: string) => string
  workersDatabaseUrl?: (url: string) => string
}

export interface PipelineOptions extends NetworkOptions {
  servers?: Servers
}

const same = (url: string) => url
const patience = { timeout: 60_000, interval: 50 }

/** Of a given network, which is not closed with it, or of one of its own. */
export async function startPipeline(
  options: PipelineOptions = {},
  of?: Network,
): Promise<Pipeline> {
  const { servers = {}, ...networkOptions } = options
  const { workersRedisUrl = same, workersDatabaseUrl = same } = servers
  const resources = new AsyncDisposableStack()
  const network = of ?? resources.use(await startNetwork(networkOptions))
  const { redis, url: redisUrl } = resources.use(await openRedis(servers.redis))
  const { sql, url: databaseUrl } = resources.use(await openDatabase(servers.postgres))
  const environment: Record<string, string> = {
    REDIS_URL: workersRedisUrl(redisUrl),
    DATABASE_URL: workersDatabaseUrl(databaseUrl),
    METRICS_PORT: '0',
    BACKFILLER_METRICS_PORT: '0',
    LOG_LEVEL: 'info',
    PLC_URL: network.plc.url,
    HANDLE_RESOLVER: network.handleResolver.url,
    ALLOW_PRIVATE_HOSTS: 'true',
    INGESTER_RELAY_HOSTS: network.relay.url,
    INDEXER_CONSUMER: 'indexer1',
    BACKFILLER_CONSUMER: 'backfiller1',
  }
  return {
    network,
    redis,
    redisUrl,
    sql,
    databaseUrl,
    environment,
    async start(service, env = {}) {
      const worker = await startWorker(service, { ...environment, ...env })
      resources.defer(worker.kill)
      return worker
    },
    async drained(stream, group) {
      await eventually(() => groupState(redis, stream, group), { lag: 0, pending: 0 })
      // What a batch that was cut off after its first transaction has left to the rules, which others do.
      const left = () => sql`select key from reconcile where kind = any(${kinds as string[]})`
      await eventually(async () => (await left()).length, 0)
    },
    pending: async (stream, group) => (await groupState(redis, stream, group))?.pending ?? 0,
    left: async (stream, group) => {
      const state = await groupState(redis, stream, group)
      return state === undefined ? redis.xlen(stream) : (state.lag ?? 0) + state.pending
    },
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  }
}

/** A client of the test's own that outlives the server's restarts, or a database of the run's server. */
async function openRedis(given: Servers['redis']) {
  if (given === undefined) return testRedis()
  const redis = new Redis(given.url, {
    protocol: 2,
    maxRetriesPerRequest: null,
    retryStrategy: () => 50,
  })
  redis.on('error', () => {})
  return { redis, url: given.url, [Symbol.asyncDispose]: async () => redis.disconnect() }
}

async function openDatabase(given: Servers['postgres']) {
  if (given === undefined) return testDatabase()
  const sql = postgres(given.url, {
    max: 4,
    onnotice: () => {},
    connection: { search_path: 'bsky,public' },
  })
  return { sql, url: given.url, [Symbol.asyncDispose]: () => sql.end({ timeout: 1 }) }
}

/** Resolves when the value is what is expected; fails after a minute. Works in hooks as well. */
export async function eventually<T>(get: () => Promise<T>, expected: T): Promise<void> {
  await vi.waitFor(async () => expect(await get()).toEqual(expected), patience)
}

/**
 * Waits until the repos that indexers wish for, of accounts that are back, are asked for: that is
 * done beside the batches, some seconds later.
 */
export async function wishesAsked(sql: Sql): Promise<void> {
  const wishes = () => sql`select key from bsky.reconcile where kind = ${resyncKind}`
  await eventually(async () => (await wishes()).length, 0)
}

async function groupState(redis: Redis, stream: string, group: string) {
  const { groups } = await readState(redis, stream)
  const found = groups.find(({ name }) => name === group)
  return found && { lag: found.lag, pending: found.pending }
}

export async function startWorker(
  service: Service,
  env: Record<string, string>,
): Promise<RunningWorker> {
  const main = new URL(`../${service}/main.ts`, import.meta.url)
  const child = spawn(process.execPath, [decodeURIComponent(main.pathname)], {
    env,
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  })
  let output = ''
  const collect = (data: Buffer) => {
    output += data.toString()
  }
  child.stdout?.on('data', collect)
  child.stderr?.on('data', collect)
  const exit = once(child, 'exit').then(([code]) => code as number | null)
  const listening = once(child, 'message').then(([message]) => message as { listening: number })
  const first = await Promise.race([listening, exit])
  if (first === null || typeof first === 'number') {
    throw new Error(`the ${service} ended with ${first} before it served metrics:\n${output}`)
  }
  const base = `http://127.0.0.1:${first.listening}`
  const end = (name: 'SIGTERM' | 'SIGKILL') => {
    if (child.exitCode === null && child.signalCode === null) child.kill(name)
    return exit
  }
  return {
    child,
    output: () => output,
    metricsUrl: `${base}/metrics`,
    stop: () => end('SIGTERM'),
    kill: async () => void (await end('SIGKILL')),
    ready: () => eventually(async () => (await fetch(`${base}/ready`)).status, 200),
    metric: async (name) => sumOf(await (await fetch(`${base}/metrics`)).text(), name),
  }
}

function sumOf(page: string, name: string): number {
  const lines = page
    .split('\n')
    .filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `))
  if (lines.length === 0) throw new Error(`no metric ${name}`)
  return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0)
}
