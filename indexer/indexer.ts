/** The indexer: applies the event streams and the labels to Postgres. */
import type { Redis } from 'ioredis'
import { crashPoint } from '../shared/crash-point.ts'
import { decodeEvent, decodeLabels, type Event } from '../shared/events.ts'
import { createIdentity } from '../shared/identity.ts'
import { createFetch } from '../shared/identity-fetch.ts'
import { connectPostgres, type Sql } from '../shared/postgres.ts'
import { connectRedis, redisFailure, throughOutages } from '../shared/redis.ts'
import { retryTransient, sleep } from '../shared/retry.ts'
import { scopeOf } from '../shared/scope.ts'
import { consume, type Entry } from '../shared/streams/consumer.ts'
import { letterStreams } from '../shared/streams/dead-letters.ts'
import { registerLengths } from '../shared/streams/lengths.ts'
import { streamMetrics } from '../shared/streams/metrics.ts'
import {
  deadLetterStream,
  parseStreamGroups,
  streams as streamNames,
} from '../shared/streams/names.ts'
import { runTogether, type Worker } from '../shared/worker.ts'
import { type ApplyOptions, createApply } from './apply.ts'
import { collections } from './collections/index.ts'
import { createDeriver } from './derive.ts'
import { createHandles } from './handles.ts'
import { applyLabels } from './labels.ts'
import { keepForgettingLetters } from './letters.ts'
import { compileLexicons } from './lexicons.ts'
import { createMetrics, type IndexerMetrics } from './metrics.ts'
import type { options } from './options.ts'
import { groupState, keepPosition } from './position.ts'
import { keepPurging } from './purge.ts'
import { keepAskingForRepos } from './resyncs.ts'
import { createDrain } from './rules/drain.ts'
import { createSample } from './sample.ts'
import { settleSnapshots } from './settle.ts'
import { requireTables } from './tables.ts'
import { tally } from './tally.ts'
import { keepTombstonesYoung } from './tombstones.ts'

type Config = Worker<typeof options>['config']

const statementTimeoutMs = 30_000
/** More transactions of one stream at once gain nothing: Postgres is the bottleneck. */
const maxTransactions = 3
/** Whatever the settings say, so that a pooler in front of many indexers is not exhausted. */
const mostConnections = 12
/** For what goes on beside the batches: handles, positions. */
const otherConnections = 4
const poolWarning = 40
const handlesAtOnce = 16
const identityTimeoutMs = 10_000
const identityEntries = 10_000
const identityTtlMs = 600_000
const positionEveryMs = 3_000
const pendingEveryMs = 2_000

/** Runs until the signal aborts; batches in hand end first. */
export async function runIndexer(worker: Worker<typeof options>): Promise<void> {
  const { config, log, signal, registry, health } = worker
  const metrics = createMetrics(registry)
  const perStream = streamMetrics(registry, 'indexer')
  const streamGroups = parseStreamGroups(config.streamGroups)
  const { batchSize, transactions } = flightOf(config)
  if (config.poolMaxSize > poolWarning) {
    log.warn({ poolMaxSize: config.poolMaxSize }, 'a pool this large helps nobody: a ceiling only')
  }

  await using redis = connectRedis({ redisUrl: config.redisUrl, log, name: 'sluice/indexer' })
  await using sql = connectPostgres({
    databaseUrl: config.databaseUrl,
    poolSize: connectionsOf(config),
    log,
    applicationName: `sluice-indexer/${config.consumer}`,
  })
  using identity = createIdentity({
    plcUrl: config.plcUrl,
    handleResolver: config.handleResolver,
    allowPrivateHosts: config.allowPrivateHosts,
    timeoutMs: identityTimeoutMs,
    maxEntries: identityEntries,
    ttlMs: identityTtlMs,
  })
  await waitForTables(worker, sql)

  const names = collections.map(({ nsid }) => nsid)
  const validate = await compileLexicons(names)
  const applying: ApplyOptions = {
    sql,
    schema: config.schema,
    collections,
    deriver: createDeriver(collections, validate),
    scope: scopeOf(config.collections.length > 0 ? config.collections : names),
    statementTimeoutMs,
    handles: config.resolveHandles,
    notifyBackfilled: config.notifyBackfilled,
  }
  const apply = createApply(applying)
  const leftovers = createDrain({
    ...applying,
    probe: async (point) => crashPoint(`indexer.${point}`),
  })
  const telling = { metrics, log, known: new Set(names), sample: createSample() }
  const shared = { redis, name: config.consumer, streamGroups, log, metrics: perStream }
  const common = { ...shared, batchSize, deadLetterMaxLength: config.dlqMaxLength }

  const handles = createHandles({
    sql,
    schema: config.schema,
    identity,
    concurrency: handlesAtOnce,
    log,
    onResult: (result, queued) => {
      metrics.handles.inc({ result })
      metrics.handlesQueued.set(queued)
    },
  })

  using http = createFetch({ trusted: [], allowPrivateHosts: config.allowPrivateHosts, signal })
  const purging = (signal: AbortSignal) =>
    keepPurging(
      {
        apply: applying,
        identity,
        fetch: http.fetch,
        timeoutMs: identityTimeoutMs,
        log,
        onResult: (result) => metrics.purges.inc({ result }),
      },
      signal,
    )

  const letters = (signal: AbortSignal) => {
    const own = config.streams.map(deadLetterStream)
    const streams = [...new Set([...letterStreams, ...own])]
    return keepForgettingLetters({ redis, sql, schema: config.schema, streams }, signal)
  }

  const indexStream = (stream: string) => {
    const part = health.part(stream)
    return (signal: AbortSignal) =>
      consume<Event>({
        ...common,
        stream,
        group: config.group,
        concurrency: transactions,
        decode: decodeEvent,
        lane: ({ did }) => did,
        barrier: (event) => event.type === 'repo' && event.complete !== undefined,
        apply: async (entries) => {
          const events = entries.map(({ event }) => event)
          const applied = await timed(metrics, () => apply(events))
          crashPoint('indexer.committed')
          await settleSnapshots(redis, events, applied.outcomes, signal)
          tally(telling, entries, applied)
          handles.want(applied.handlesWanted)
          leftovers.take(applied.left)
          return applied.outcomes
        },
        signal,
        health: part,
      })
  }

  const indexLabels = () => {
    const part = health.part(streamNames.labels)
    return (signal: AbortSignal) =>
      consume({
        ...common,
        stream: streamNames.labels,
        group: config.labelGroup,
        concurrency: 1,
        decode: decodeLabels,
        apply: async (entries: readonly Entry<ReturnType<typeof decodeLabels>>[]) => {
          const events = entries.map(({ event }) => event)
          const { schema } = config
          const { outcomes, added, removed } = await timed(metrics, () =>
            applyLabels({ sql, schema, statementTimeoutMs }, events),
          )
          metrics.labelsProcessed.inc(events.reduce((sum, { labels }) => sum + labels.length, 0))
          metrics.labelsAdded.inc(added)
          metrics.labelsRemoved.inc(removed)
          return outcomes
        },
        signal,
        health: part,
      })
  }

  const followed = config.mode === 'label' ? [] : config.streams
  if (config.mode !== 'stream') await warnOfOtherLabelGroups(redis, config, worker)
  const groups = [
    ...followed.map((stream) => ({ stream, group: config.group })),
    ...(config.mode === 'stream' ? [] : [{ stream: streamNames.labels, group: config.labelGroup }]),
  ]
  registerLengths({
    redis,
    streams: groups.map(({ stream }) => stream),
    registry,
    service: 'indexer',
  })
  await runTogether(signal, [
    ...followed.map(indexStream),
    ...(config.mode === 'stream' ? [] : [indexLabels()]),
    ...(config.resolveHandles && followed.length > 0 ? [handles.run, purging, letters] : []),
    ...(followed.length > 0 ? [leftovers.run] : []),
    ...(followed.length > 0
      ? [(signal: AbortSignal) => keepAskingForRepos({ redis, sql, schema: config.schema }, signal)]
      : []),
    ...groups.map(
      (seat) => (signal: AbortSignal) =>
        keepPosition({
          redis,
          sql,
          schema: config.schema,
          ...seat,
          everyMs: positionEveryMs,
          signal,
        }),
    ),
    (signal) => watchPending(redis, groups, metrics, signal),
    (signal) => keepTombstonesYoung(sql, config.schema, config.tombstoneDays, signal),
  ])
}

/**
 * How the events that may be in flight are spread: over two transactions at least, because one
 * derives while the other waits. Measured with 100 events in flight: 4,500 events/s against 3,600.
 */
export function flightOf(config: Pick<Config, 'batchSize' | 'concurrency'>): {
  batchSize: number
  transactions: number
} {
  const { batchSize, concurrency } = config
  const whole = Math.floor(concurrency / batchSize)
  const transactions = Math.min(Math.max(2, whole), maxTransactions, concurrency)
  return { batchSize: Math.min(batchSize, Math.floor(concurrency / transactions)), transactions }
}

/**
 * Connections to Postgres: one for each batch in flight, and what goes on beside them. Each stream has its own, so that
 * a long backfill leaves the live network its turn.
 */
export function connectionsOf(
  config: Pick<Config, 'batchSize' | 'concurrency' | 'poolMaxSize' | 'streams'>,
): number {
  const inFlight = flightOf(config).transactions * config.streams.length
  return Math.min(config.poolMaxSize, mostConnections, inFlight + otherConnections)
}

/** Waits while Postgres is away; throws when it is there and not a database for us. */
async function waitForTables(worker: Worker<typeof options>, sql: Sql): Promise<void> {
  const { config, log, signal, health } = worker
  const part = health.part('postgres')
  await retryTransient(() => requireTables(sql, config.schema), {
    signal,
    onRetry: (err, attempt) => {
      part.notReady('Postgres is away')
      log.warn({ err, attempt }, 'postgres is away')
    },
  })
  part.ready()
}

/** An older indexer may have read the labels under another group: ours then begins anew, or misses it. */
export async function warnOfOtherLabelGroups(
  redis: Redis,
  { labelGroup }: Pick<Config, 'labelGroup'>,
  { log, signal }: Pick<Worker<typeof options>, 'log' | 'signal'>,
): Promise<void> {
  const stream = streamNames.labels
  const read = async () =>
    (await redis.exists(stream)) === 0
      ? []
      : ((await redis.xinfo('GROUPS', stream)) as (string | number | null)[][])
  const groups = await throughOutages(read, signal)
  const names = (groups ?? []).map((flat) => String(flat[flat.indexOf('name') + 1]))
  if (names.length === 0 || names.includes(labelGroup)) return
  log.warn({ stream, group: labelGroup, others: names }, 'other groups hold the progress of labels')
}

async function timed<T>(metrics: IndexerMetrics, work: () => Promise<T>): Promise<T> {
  const stop = metrics.applySeconds.startTimer()
  metrics.active.inc()
  try {
    return await work()
  } catch (error) {
    metrics.unexpectedErrors.inc()
    metrics.errors.inc()
    throw error
  } finally {
    metrics.active.dec()
    stop()
  }
}

/** Keeps the number of pending entries current, whether anything is read or not. */
async function watchPending(
  redis: Redis,
  groups: readonly { stream: string; group: string }[],
  metrics: IndexerMetrics,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    try {
      const states = await Promise.all(
        groups.map(({ stream, group }) => groupState(redis, stream, group)),
      )
      metrics.pending.set(states.reduce((sum, state) => sum + (state?.pending ?? 0), 0))
    } catch (error) {
      // Until Redis is back the last number stands; the consumer tells of the outage.
      if (redisFailure(error) === 'fault') throw error
    }
    await sleep(pendingEveryMs, signal)
  }
}
