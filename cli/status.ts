/** `sluice status`: how everything stands, or where one repo does. */
import type { Redis } from 'ioredis'
import { options as backfillerOptions } from '../backfiller/options.ts'
import { options as indexerOptions } from '../indexer/options.ts'
import { options as ingesterOptions } from '../ingester/options.ts'
import {
  networkOptions,
  type Options,
  optional,
  readConfig,
  redisOptions,
} from '../shared/config.ts'
import { errorText } from '../shared/errors.ts'
import { databaseUrl, postgresOptions, type Sql } from '../shared/postgres.ts'
import { readGaps } from '../shared/streams/gaps.ts'
import { type LedgerBalance, ledgerBalance } from '../shared/streams/ledger.ts'
import {
  chainKey,
  cursorHost,
  cursorKeys,
  deadLetterStream,
  firstStream,
  namedGroups,
  parseStreamGroups,
  streams as streamNames,
  unprovedKey,
} from '../shared/streams/names.ts'
import { countResyncs } from '../shared/streams/resyncs.ts'
import { type GroupState, readState, unacknowledged } from '../shared/streams/state.ts'
import { act, type Context, type ExitCode, examples, type Register } from './command.ts'
import { type Row, type Section, spoken } from './output.ts'
import { openPostgres } from './postgres.ts'
import { openRedis, redisSettings } from './redis.ts'
import { backfillSections, readBackfill } from './status-backfill.ts'
import { didOf, readRepo, repoText } from './status-repo.ts'

interface Flags {
  repo?: string
}

const settings = {
  ...redisSettings,
  ...networkOptions,
  streamGroups: redisOptions.streamGroups,
  relayHosts: ingesterOptions.relayHosts,
  labelerHosts: ingesterOptions.labelerHosts,
  streams: indexerOptions.streams,
  group: backfillerOptions.group,
  stream: backfillerOptions.requestStream,
  databaseUrl: {
    ...postgresOptions.databaseUrl,
    parse: optional(databaseUrl),
    default: '',
  },
  schema: postgresOptions.schema,
} as const satisfies Options

type Config = ReturnType<typeof readConfig<typeof settings>>

/** Where Redis gives no lag, entries are counted no further. */
const countedLag = 100_000

export const register: Register = (program, context) => {
  program
    .command('status')
    .description(
      'tell how everything stands: streams, groups, ledgers, workers, sources, dead letters, backfill; or where one repo does. Exit code 1 when a ledger does not balance, or the Postgres of DATABASE_URL is away',
    )
    .option('--repo <account>', 'a DID or handle: in the queue, at work, set aside, in Postgres')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      examples([
        'sluice status',
        'sluice status --repo bsky.app',
        "sluice status --json | jq '.streams[] | select(.lag > 0)'",
      ]),
    )
    .action(
      act(context, async ({ repo }: Flags) => {
        const config = readConfig(settings, context.env)
        await using redis = await openRedis(config, context)
        return repo === undefined
          ? await showAll(redis, config, context)
          : await showRepo(redis, repo, config, context)
      }),
    )
}

async function showRepo(
  redis: Redis,
  account: string,
  config: Config,
  context: Context,
): Promise<ExitCode> {
  const { out, signal } = context
  const did = await didOf(account, config, signal)
  const { databaseUrl: url, schema } = config
  await using sql =
    url === null
      ? null
      : await openPostgres({ ...config, databaseUrl: url }, context, { name: 'status' })
  const database = sql === null ? null : { sql, schema }
  const found = await readRepo(did, { redis, queue: config, database, signal })
  out.value(found, () => repoText(found))
  return 0
}

async function showAll(redis: Redis, config: Config, context: Context): Promise<ExitCode> {
  const streams = await readStreams(redis, config)
  const found = {
    redis: await readMemory(redis),
    streams,
    consumers: await readConsumers(redis, streams),
    sources: await readSources(redis, config),
    deadLetters: await readLetters(redis, config),
    gapsOpen: (await readGaps(redis)).filter(({ closed_at }) => closed_at === null).length,
    resyncs: await countResyncs(redis),
    unproved: await redis.hlen(unprovedKey),
    backfill: await readBackfill(redis, config),
    postgres: await readPostgres(config, context),
  }
  context.out.page(found, [...sectionsOf(found), ...backfillSections(found.backfill)])
  const isOff = streams.some(({ ledger }) => ledger?.balanced === false)
  return isOff || found.postgres?.away ? 1 : 0
}

interface ShownStream {
  stream: string
  length: number
  /** Null where nobody reads the stream. */
  group: string | null
  /** Whether the stream is kept for this group: only what it has acknowledged is trimmed. */
  counts: boolean
  lag: number | null
  pending: number | null
  oldestPendingSeconds: number | null
  ledger: LedgerBalance | null
}

async function readStreams(redis: Redis, config: Config): Promise<ShownStream[]> {
  const { streams, stream: requests } = config
  const named = parseStreamGroups(config.streamGroups)
  const names = new Set([...streams, streamNames.labels, requests, firstStream(requests)])
  const shown: ShownStream[] = []
  for (const stream of names) {
    const { length, groups } = await readState(redis, stream)
    const counting = namedGroups(named, stream)
    const none = { group: null, counts: false, lag: null, pending: null, ledger: null }
    if (groups.length === 0) shown.push({ stream, length, ...none, oldestPendingSeconds: null })
    for (const group of groups) {
      const unread = await unacknowledged(redis, stream, group, countedLag)
      shown.push({
        ...{ stream, length, group: group.name, counts: counting.includes(group.name) },
        lag: unread - group.pending,
        pending: group.pending,
        oldestPendingSeconds: ageOf(group),
        ledger: await ledgerBalance(redis, stream, group.name),
      })
    }
  }
  return shown
}

/** Since when the oldest pending entry has been in Redis. */
function ageOf({ oldestPending }: GroupState): number | null {
  if (oldestPending === null) return null
  return Math.max(0, Math.round((Date.now() - Number(oldestPending.split('-')[0])) / 1_000))
}

async function readConsumers(redis: Redis, streams: readonly ShownStream[]) {
  const shown: {
    stream: string
    group: string
    consumer: string
    pending: number
    idleSeconds: number
  }[] = []
  for (const { stream, group } of streams) {
    if (group === null) continue
    for (const flat of (await redis.xinfo('CONSUMERS', stream, group)) as (string | number)[][]) {
      const field = (name: string) => flat[flat.indexOf(name) + 1] ?? 0
      const [consumer, pending] = [String(field('name')), Number(field('pending'))]
      const idleSeconds = Math.round(Number(field('idle')) / 1_000)
      shown.push({ stream, group, consumer, pending, idleSeconds })
    }
  }
  return shown
}

/** How far each source has been read: of those in the settings, and those that an ingester has read. */
async function readSources(redis: Redis, { relayHosts, labelerHosts, stream }: Config) {
  const of = (name: string, hosts: readonly string[]) =>
    hosts.map((host) => [name, cursorHost(host)] as const)
  const written = Object.entries(await redis.hgetall(chainKey)).flatMap(([key, text]) => {
    const [, name = '', host = ''] = /^(.+?):cursor:(.+)$/.exec(key) ?? []
    return host === '' ? [] : [{ name, host, time: text.split(' ')[1] || null }]
  })
  const all = new Map(
    [
      ...of(streamNames.live, relayHosts),
      ...of(streamNames.labels, labelerHosts),
      ...of(stream, relayHosts),
      ...written.map(({ name, host }) => [name, host] as const),
    ].map((source) => [source.join(' '), source]),
  )
  const shown: { stream: string; host: string; cursor: string | null; eventTime: string | null }[] =
    []
  for (const [name, host] of all.values()) {
    const cursor = await redis.get(cursorKeys(name, host).key)
    const known = written.find((one) => one.name === name && one.host === host)
    shown.push({ stream: name, host, cursor, eventTime: known?.time ?? null })
  }
  return shown
}

async function readLetters(redis: Redis, { streams, stream: requests }: Config) {
  const names = new Set([...streams, streamNames.labels, requests].map(deadLetterStream))
  return Promise.all(
    [...names].map(async (stream) => ({ stream, letters: await redis.xlen(stream) })),
  )
}

async function readMemory(redis: Redis) {
  const text = await redis.info('memory')
  const field = (name: string) => new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(text)?.[1] ?? ''
  const limit = Number(field('maxmemory'))
  return {
    usedBytes: Number(field('used_memory')),
    limitBytes: limit === 0 ? null : limit,
    policy: field('maxmemory_policy'),
  }
}

interface ShownPosition extends Row {
  stream: string
  host: string
  group: string
  seq: string
  updatedAt: string
}

interface ShownPostgres {
  /** Why nothing is known; null when it could be asked. */
  away: string | null
  positions: readonly ShownPosition[]
  /** Accounts said to be deleted that are not gone yet. */
  purges: number
  /** What batches left to be looked at again: threads, handles, repos to ask for. */
  leftovers: number
}

/** It may be away: that is when one looks. Null where no settings name it. */
async function readPostgres(config: Config, context: Context): Promise<ShownPostgres | null> {
  const { databaseUrl: url, schema } = config
  if (url === null) return null
  try {
    await using sql = await openPostgres({ ...config, databaseUrl: url }, context, {
      name: 'status',
    })
    return { away: null, ...(await readTables(sql, schema)) }
  } catch (error) {
    return { away: errorText(error), positions: [], purges: 0, leftovers: 0 }
  }
}

async function readTables(sql: Sql, schema: string) {
  const positions = await sql<ShownPosition[]>`
    select stream, host, "group", seq::text as seq, "updatedAt" from ${sql(schema)}.position
    order by stream, host, "group"`
  const [counts] = await sql<{ purges: number; leftovers: number }[]>`
    select (select count(*) from ${sql(schema)}.account_purge) as purges,
      (select count(*) from ${sql(schema)}.reconcile) as leftovers`
  return {
    positions: [...positions],
    purges: counts?.purges ?? 0,
    leftovers: counts?.leftovers ?? 0,
  }
}

interface Found {
  redis: Awaited<ReturnType<typeof readMemory>>
  streams: readonly ShownStream[]
  consumers: Awaited<ReturnType<typeof readConsumers>>
  sources: Awaited<ReturnType<typeof readSources>>
  deadLetters: Awaited<ReturnType<typeof readLetters>>
  gapsOpen: number
  resyncs: number
  unproved: number
  postgres: ShownPostgres | null
}

/** The same for people. */
function sectionsOf(found: Found): Section[] {
  const { redis, gapsOpen, resyncs, unproved, postgres } = found
  const megabytes = (bytes: number) => Math.round(bytes / 1e6)
  const limit = redis.limitBytes === null ? null : megabytes(redis.limitBytes)
  return [
    {
      title: 'redis',
      rows: [
        {
          ...{ used_mb: megabytes(redis.usedBytes), limit_mb: limit, policy: redis.policy },
          ...{ gaps_open: gapsOpen, resyncs, unproved },
        },
      ],
      none: '',
    },
    {
      title: 'streams',
      rows: found.streams.map(({ ledger, oldestPendingSeconds: oldest, ...rest }) => ({
        ...{ stream: rest.stream, length: rest.length, group: rest.group, counts: rest.counts },
        ...{ lag: rest.lag, pending: rest.pending },
        oldest: oldest === null ? null : spoken(oldest),
        ...{ applied: ledger?.applied ?? null, stale: ledger?.stale ?? null },
        ...{ refused: sum(ledger?.refused), dead: sum(ledger?.dead), off: ledger?.off ?? null },
      })),
      none: '',
    },
    {
      title: 'workers',
      rows: found.consumers.map(({ idleSeconds, ...rest }) => ({
        ...rest,
        idle: spoken(idleSeconds),
      })),
      none: 'nobody has read a stream',
    },
    {
      title: 'sources',
      rows: found.sources.map(({ eventTime, ...rest }) => ({ ...rest, event_time: eventTime })),
      none: 'none is named in the settings',
    },
    { title: 'dead letters', rows: found.deadLetters, none: '' },
    {
      title: 'postgres',
      rows:
        postgres === null
          ? []
          : [{ away: postgres.away, purges: postgres.purges, leftovers: postgres.leftovers }],
      none: 'DATABASE_URL is not set',
    },
    { title: 'positions', rows: postgres?.positions ?? [], none: 'none is stored' },
  ]
}

function sum(counts: Readonly<Record<string, number>> | undefined): number | null {
  if (counts === undefined) return null
  return Object.values(counts).reduce((all, count) => all + count, 0)
}
