/** `npm start`: servers, migrations and the three workers on one machine, until the signal aborts. */
import { mkdir, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { Redis } from 'ioredis'
import postgres, { type Sql } from 'postgres'
import { migrate } from '../migrations/migrate.ts'
import type { Environment } from '../shared/config.ts'
import { errorText, withoutCredentials } from '../shared/errors.ts'
import { encodeRequest } from '../shared/events.ts'
import { sleep } from '../shared/retry.ts'
import { streams } from '../shared/streams/names.ts'
import { runTogether } from '../shared/worker.ts'
import type { Arguments } from './arguments.ts'
import { demo, demoEnvironment, demoNetwork } from './demo.ts'
import { foreignServer, type KeptServer, keepServer } from './keep.ts'
import { lockFolder } from './lock.ts'
import { findPlaces, type Places } from './places.ts'
import { inWords } from './plain.ts'
import { endLeftPostgres, startPostgres } from './postgres.ts'
import { endLeftRedis, startRedis } from './redis.ts'
import { type SimulatedNetwork, startSimulator } from './simulator.ts'
import { measure, type Status, statusLine } from './status.ts'
import type { Board, Fault } from './view-board.ts'
import { sample } from './view-sample.ts'
import { keepWorker, newWorker, type Service, type WorkerState } from './worker.ts'

const schema = 'bsky'
/** Followed when nobody names another. */
export const defaultRelay = 'bsky.network'
const services: readonly Service[] = ['ingester', 'indexer', 'backfiller']
const statusEveryMs = 5_000
const firstRowsEveryMs = 250
// Shorter waits are part of every start; a relay that can't be reached is told well within 10 s.
const waitsQuietlyMs = 3_000
const repeatsAfterMs = 60_000

export interface StartContext {
  env: Environment
  signal: AbortSignal
  /** Takes one plain line. */
  say: (text: string) => void
  /** Where measurements and faults go. */
  board: Board
  /** Whether the board is seen; without it a line now and then tells how it goes. */
  isSeen: boolean
}

/** Runs everything until the signal aborts, then ends the workers, then the servers. */
export async function start(args: Arguments, context: StartContext): Promise<void> {
  const { env, signal, say, board } = context
  const startedAt = performance.now()
  const places = await findPlaces(env)
  const dir = dataFolder(args, env, places)
  await mkdir(dir, { recursive: true })
  await using _lock = await lockFolder(dir)
  say(`data: ${dir}`)
  // Each demo is another network: what an earlier one left in our own cache is of no use to it.
  if (args.demo && args.data === null) await forget(dir)

  const logs = join(dir, 'logs')
  await using resources = new AsyncDisposableStack()
  // A network needs some seconds to be populated: the servers start beside it.
  const simulating = args.simulated ? simulate(args, logs, context) : null
  // A failure is met below, where the network is needed.
  simulating?.catch(() => undefined)
  resources.defer(async () => (await simulating?.catch(() => null))?.child.stop())
  await using servers = await startServers({ places, dir, context })
  if (signal.aborted) return
  await migrate({ databaseUrl: servers.postgres.url, schema })
  if (signal.aborted) return

  await using clients = connect(servers)
  await requestBackfill(clients.redis, args.backfill)
  const workers = services.map(newWorker)
  board.follow(workers)
  await runTogether(signal, [
    (signal) => servers.redis.watch(signal),
    (signal) => servers.postgres.watch(signal),
    (signal) => sample({ ...clients, board, schema, workers, signal }),
    async (signal) => {
      const network = await untilAborted(simulating, signal)
      if (signal.aborted) return
      const running = { args, servers, clients, network, workers, logs, startedAt }
      await follow(running, { ...context, signal })
    },
  ])
}

interface Running {
  args: Arguments
  servers: Servers
  clients: Clients
  network: SimulatedNetwork | null
  workers: readonly WorkerState[]
  /** The folder of the logs. */
  logs: string
  startedAt: number
}

/** Runs the workers on the network, and says how it goes. */
async function follow(running: Running, context: StartContext): Promise<void> {
  const { args, servers, clients, network, workers, logs, startedAt } = running
  const { env, signal, say, board, isSeen } = context
  const relays = relaysOf(args, env, network)
  board.footer(`Ctrl-C ends it · data and logs: ${join(logs, '..')}`)
  board.stage('running')
  say(`following ${relays.join(', ')}; logs of the workers: ${logs}`)
  const given = args.demo ? { ...demoEnvironment, ...env } : env
  const workerEnv = workerEnvironment({ env: given, servers, network, relays })
  await runTogether(signal, [
    ...workers.map(
      (state) => (signal: AbortSignal) =>
        keepWorker({ service: state.service, env: workerEnv, dir: logs, say, signal }, state),
    ),
    (signal) => sayWaiting({ workers, relays, isDemo: args.demo }, { ...context, signal }),
    (signal) => sayFirstRows(clients.sql, startedAt, { ...context, signal }),
    (signal) => (isSeen ? Promise.resolve() : sayStatus(clients, { ...context, signal })),
    async (signal) => {
      if (args.demo && network) await demo({ board, network, workers, servers, signal })
    },
  ])
}

function dataFolder(args: Arguments, env: Environment, places: Places): string {
  // npm runs scripts in the package's folder and tells where it was called.
  if (args.data !== null) return resolve(env['INIT_CWD'] ?? '', args.data)
  return join(places.cache, args.demo ? 'demo' : args.simulated ? 'simulated' : 'data')
}

/** Ends the servers that were left on the folder, and empties it of their data. */
async function forget(dir: string): Promise<void> {
  const [redis, postgres] = [join(dir, 'redis'), join(dir, 'postgres')]
  await endLeftRedis(redis)
  await endLeftPostgres(postgres)
  for (const folder of [redis, postgres]) await rm(folder, { recursive: true, force: true })
}

interface Servers extends AsyncDisposable {
  redis: KeptServer
  postgres: KeptServer
}

/** Both at once; when one can't be started, the other is ended. */
async function startServers(options: {
  places: Places
  dir: string
  context: StartContext
}): Promise<Servers> {
  const { places, dir, context } = options
  const started: KeptServer[] = []
  const stop = async () => {
    await Promise.all(started.map((server) => server[Symbol.asyncDispose]()))
  }
  const track = async (starting: Promise<KeptServer>) => {
    const server = await starting
    started.push(server)
    return server
  }
  const both = [
    track(serveRedis(places, join(dir, 'redis'), context)),
    track(servePostgres(places, join(dir, 'postgres'), context)),
  ] as const
  await Promise.allSettled(both)
  try {
    const [redis, postgres] = await Promise.all(both)
    return { redis, postgres, [Symbol.asyncDispose]: stop }
  } catch (error) {
    await stop()
    throw error
  }
}

async function serveRedis(
  places: Places,
  dir: string,
  { env, say, board, signal }: StartContext,
): Promise<KeptServer> {
  const given = env['REDIS_URL']
  if (given) {
    say(`Redis: ${withoutCredentials(given)} (REDIS_URL)`)
    return foreignServer(given)
  }
  const server = await keepServer({
    name: 'Redis',
    start: (port) => {
      const onFetch = () => say('Redis: none on this machine, fetching it')
      return startRedis({ places, dir, signal, onFetch, ...(port === undefined ? {} : { port }) })
    },
    say,
  })
  board.listens('Redis', server.port ?? 0)
  say(`Redis: ${server.url} (redis-cli -p ${server.port})`)
  return server
}

async function servePostgres(
  places: Places,
  dir: string,
  { env, say, board }: StartContext,
): Promise<KeptServer> {
  const given = env['DATABASE_URL']
  if (given) {
    say(`Postgres: ${withoutCredentials(given)} (DATABASE_URL)`)
    return foreignServer(given)
  }
  const server = await keepServer({
    name: 'Postgres',
    start: (port) => startPostgres({ places, dir, ...(port === undefined ? {} : { port }) }),
    say,
  })
  const address = join(dir, 'url')
  board.listens('Postgres', server.port ?? 0)
  say(`Postgres: 127.0.0.1:${server.port}, schema ${schema} (psql "$(cat '${address}')")`)
  return server
}

async function simulate(
  { demo }: Arguments,
  logs: string,
  { env, say, signal }: StartContext,
): Promise<SimulatedNetwork> {
  const network = await startSimulator({
    env,
    dir: logs,
    say,
    signal,
    ...(demo && { args: demoNetwork }),
  })
  say(`simulated network: relay ${network.relay}, PLC ${network.plc}`)
  return network
}

interface Clients extends AsyncDisposable {
  redis: Redis
  sql: Sql
}

/** For our own questions: few, and never in the way of the workers. */
function connect(servers: Servers): Clients {
  const redis = new Redis(servers.redis.url, { protocol: 2, maxRetriesPerRequest: 1 })
  // Each command says so itself.
  redis.on('error', () => {})
  const sql = postgres(servers.postgres.url, { max: 1, prepare: false, onnotice: () => {} })
  return {
    redis,
    sql,
    [Symbol.asyncDispose]: async () => {
      redis.disconnect()
      await sql.end({ timeout: 0 })
    },
  }
}

async function requestBackfill(redis: Redis, dids: readonly string[]): Promise<void> {
  for (const did of dids) {
    await redis.xadd(streams.requests, '*', ...encodeRequest({ did, reason: 'manual' }))
  }
}

function relaysOf(
  args: Arguments,
  env: Environment,
  network: SimulatedNetwork | null,
): readonly string[] {
  if (network !== null) return [network.relay]
  return args.relays ?? [env['INGESTER_RELAY_HOSTS'] || defaultRelay]
}

function workerEnvironment(options: {
  env: Environment
  servers: Servers
  network: SimulatedNetwork | null
  relays: readonly string[]
}): Record<string, string | undefined> {
  const { env, servers, network, relays } = options
  return {
    // Whoever follows the live network does not want every repo of it on this machine.
    INGESTER_MODE: 'firehose',
    ...env,
    REDIS_URL: servers.redis.url,
    DATABASE_URL: servers.postgres.url,
    DB_SCHEMA: schema,
    METRICS_PORT: '0',
    BACKFILLER_METRICS_PORT: '0',
    INGESTER_RELAY_HOSTS: relays.join(','),
    INDEXER_CONSUMER: 'indexer1',
    BACKFILLER_CONSUMER: 'backfiller1',
    ...(network === null ? {} : simulatedEnvironment(network)),
  }
}

function simulatedEnvironment(network: SimulatedNetwork): Record<string, string> {
  return {
    INGESTER_MODE: 'all',
    INGESTER_LABELER_HOSTS: network.labeler ?? '',
    PLC_URL: network.plc,
    HANDLE_RESOLVER: network.handleResolver,
    ALLOW_PRIVATE_HOSTS: 'true',
  }
}

/**
 * Says in words what a worker has been waiting for, and when it no longer does. The demo's faults are
 * on the board already, under their own names.
 */
async function sayWaiting(
  options: { workers: readonly WorkerState[]; relays: readonly string[]; isDemo: boolean },
  { say, board, isSeen, signal }: StartContext,
): Promise<void> {
  const { workers, relays, isDemo } = options
  const waits = new Map<string, { since: number; saidAt: number | null; fault: Fault | null }>()
  while (!signal.aborted) {
    const now = performance.now()
    const current = new Set<string>()
    for (const { service, problems } of workers) {
      for (const [part, reason] of Object.entries(problems)) {
        const key = `${service}: ${part}`
        current.add(key)
        const wait = waits.get(key) ?? { since: now, saidAt: null, fault: null }
        waits.set(key, wait)
        if (now - wait.since < waitsQuietlyMs) continue
        if (wait.saidAt !== null && now - wait.saidAt < repeatsAfterMs) continue
        wait.saidAt = now
        const text = waitingText({ service, part, reason, relays })
        say(text)
        if (isSeen && !isDemo) wait.fault ??= board.fault(text)
      }
    }
    for (const [key, wait] of waits) {
      if (current.has(key)) continue
      if (wait.saidAt !== null) say(`${key}: ready again`)
      wait.fault?.healed()
      waits.delete(key)
    }
    await sleep(500, signal)
  }
}

function waitingText(options: {
  service: string
  part: string
  reason: string
  relays: readonly string[]
}): string {
  const { service, part, reason, relays } = options
  const relay = relays.find((host) => part.includes(host.replace(/^[a-z]+:\/\//i, '')))
  if (service === 'ingester' && relay !== undefined) {
    return `the relay ${relay} can't be reached (${inWords(reason)}); it is tried again and again`
  }
  return `${service} waits for ${part} (${inWords(reason)})`
}

/** Says once how long it took from the start to the first row. */
async function sayFirstRows(
  sql: Sql,
  startedAt: number,
  { say, signal }: StartContext,
): Promise<void> {
  let before: boolean | null = null
  while (!signal.aborted) {
    const any = await hasRows(sql).catch(() => null)
    // Rows of an earlier start are not the first ones.
    if (before === null && any === true) return
    before ??= any
    if (any) {
      const seconds = ((performance.now() - startedAt) / 1_000).toFixed(1)
      return say(`first rows in Postgres ${seconds} s after the start`)
    }
    await sleep(firstRowsEveryMs, signal)
  }
}

async function hasRows(sql: Sql): Promise<boolean> {
  const [found] = await sql`select exists (select from ${sql(schema)}.record) as any`
  return found?.['any'] === true
}

async function sayStatus(clients: Clients, { say, signal }: StartContext): Promise<void> {
  let before: { status: Status; at: number } | null = null
  while (!signal.aborted) {
    try {
      const status = await measure(clients.redis, clients.sql, schema)
      const at = performance.now()
      if (before !== null) say(statusLine(status, before.status, (at - before.at) / 1_000))
      before = { status, at }
    } catch (error) {
      if (!signal.aborted) say(`can't measure: ${inWords(errorText(error))}`)
    }
    await sleep(statusEveryMs, signal)
  }
}

/** The promise's value, or null as soon as the signal aborts; then a failure is of no interest. */
function untilAborted<T>(promise: Promise<T> | null, signal: AbortSignal): Promise<T | null> {
  return new Promise((resolve, reject) => {
    if (promise === null || signal.aborted) return resolve(null)
    signal.addEventListener('abort', () => resolve(null), { once: true })
    promise.then(resolve, reject)
  })
}
