/** The room of the comparison: the reference network, and our workers live against its PDS. */
import type { Redis } from 'ioredis'
import type { Sql } from 'postgres'
import { lettersKind } from '../../indexer/letters.ts'
import { cursorDone, resyncsKey, streams } from '../../shared/streams/names.ts'
import { readState } from '../../shared/streams/state.ts'
import { eventually, type RunningWorker, type Service, startWorker } from '../pipeline.ts'
import { type TestDatabase, testDatabase } from '../servers/postgres.ts'
import { ownRedis, testRedis } from '../servers/redis.ts'
import { installReference } from './install.ts'
import { type ReferenceNetwork, startReference } from './network.ts'
import type { Side } from './rows.ts'

export interface Room extends AsyncDisposable {
  readonly network: ReferenceNetwork
  readonly ours: Side
  readonly theirs: Side
  readonly live: Plant
  /** Holds every event of the firehose as our ingester appends it: nobody reads it. */
  readonly recorded: Redis
  /** A Redis and a database that nobody else has, and workers that use them. */
  plant(env?: Record<string, string>): Promise<Plant>
}

/** Redis, Postgres and the workers between them. */
export interface Plant {
  readonly redis: Redis
  readonly database: TestDatabase
  readonly workers: readonly RunningWorker[]
  start(service: Service, env?: Record<string, string>): Promise<RunningWorker>
  /** Resolves when its sources are read, every stream is applied, and nothing waits in `reconcile`. */
  quiet(): Promise<void>
}

/** The reference's schema, as its own network names it. */
const referenceSchema = 'appview_reference'

export async function openRoom(): Promise<Room> {
  const { workingFolder } = await installReference()
  const resources = new AsyncDisposableStack()
  const { port: redisPort } = resources.use(await ownRedis())
  const reference = resources.use(await testDatabase({ migrated: false }))
  const database = resources.use(await testDatabase())
  const network = resources.use(
    await startReference({
      workingFolder,
      databaseUrl: reference.url,
      redisPort,
      peer: { databaseUrl: database.url, schema: database.schema },
    }),
  )
  const plant: Room['plant'] = async (env = {}) =>
    openPlant(resources, resources.use(await testDatabase()), network, env)
  const live = await openPlant(resources, database, network)
  const recorder = await openPlant(resources, database, network)
  await Promise.all([
    live.start('ingester', { INGESTER_MODE: 'firehose' }),
    live.start('ingester', { INGESTER_MODE: 'labeler' }),
    live.start('backfiller'),
    live.start('indexer'),
    recorder.start('ingester', { INGESTER_MODE: 'firehose' }),
  ])
  return {
    network,
    live,
    recorded: recorder.redis,
    ours: { sql: database.sql, schema: database.schema },
    theirs: { sql: reference.sql, schema: referenceSchema },
    plant,
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  }
}

async function openPlant(
  resources: AsyncDisposableStack,
  database: TestDatabase,
  network: ReferenceNetwork,
  more: Record<string, string> = {},
): Promise<Plant> {
  const { redis, url } = resources.use(await testRedis())
  const workers: RunningWorker[] = []
  let source: string | null = null
  const started = new Set<Service>()
  const environment = {
    REDIS_URL: url,
    DATABASE_URL: database.url,
    METRICS_PORT: '0',
    BACKFILLER_METRICS_PORT: '0',
    LOG_LEVEL: 'info',
    PLC_URL: network.plc,
    HANDLE_RESOLVER: network.pds,
    ALLOW_PRIVATE_HOSTS: 'true',
    INGESTER_RELAY_HOSTS: network.pds.replace(/^http/, 'ws'),
    INGESTER_LABELER_HOSTS: network.ozone.replace(/^http/, 'ws'),
    INDEXER_CONSUMER: 'indexer1',
    BACKFILLER_CONSUMER: 'backfiller1',
    ...more,
  }
  return {
    redis,
    database,
    workers,
    async start(service, env = {}) {
      source = env['INGESTER_MODE'] ?? source
      started.add(service)
      const worker = await startWorker(service, { ...environment, ...env })
      resources.defer(worker.kill)
      workers.push(worker)
      await worker.ready().catch((cause) => {
        throw new Error(`the ${service} is not ready:\n${worker.output().slice(-4_000)}`, { cause })
      })
      return worker
    },
    quiet: () =>
      eventually(async () => {
        const unread = await leftToRead(redis, network, source)
        return { ...unread, ...(await leftToDo(redis, database.sql, started)) }
      }, {}),
  }
}

const groups = {
  firehose_live: 'firehose_group',
  firehose_backfill: 'firehose_group',
  repo_backfill: 'repo_backfill_group',
  label_live: 'label_group',
}

/** What the ingester has not read yet of its source; nothing where there is none. */
async function leftToRead(
  redis: Redis,
  network: ReferenceNetwork,
  mode: string | null,
): Promise<Record<string, unknown>> {
  if (mode === null) return {}
  const stream = mode === 'backfill' ? streams.requests : streams.live
  const cursor = await redis.get(`${stream}:cursor:${new URL(network.pds).host}`)
  if (mode === 'backfill') return cursor === cursorDone ? {} : { cursor }
  const unread = (await network.lastSeq()) - Number(cursor)
  return unread > 0 ? { unread } : {}
}

/**
 * What is not applied yet, by stream and by kind of key that waits to be reconciled. The dead letters of
 * deleted accounts are looked for once a minute, and change no row.
 */
async function leftToDo(
  redis: Redis,
  sql: Sql,
  started: ReadonlySet<Service>,
): Promise<Record<string, number>> {
  const left: Record<string, number> = {}
  for (const [stream, group] of Object.entries(groups)) {
    // Requests wait until somebody is there to serve them.
    if (stream === streams.requests && !started.has('backfiller')) continue
    const state = await readState(redis, stream)
    const found = state.groups.find(({ name }) => name === group)
    const count = found ? (found.lag ?? 0) + found.pending : await redis.xlen(stream)
    if (count > 0) left[stream] = count
  }
  const waiting = await sql<{ kind: string; count: number }[]>`
    select kind, count(*)::int from bsky.reconcile where kind <> ${lettersKind} group by kind
    union all select 'purge', count(*)::int from bsky.account_purge having count(*) > 0`
  for (const { kind, count } of waiting) left[kind] = count
  const resyncs = await redis.hlen(resyncsKey)
  if (resyncs > 0) left['resyncs'] = resyncs
  return left
}
