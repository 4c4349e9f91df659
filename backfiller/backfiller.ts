/** The backfiller: fetches whole repos, proves them, and puts their records on a stream. */
import type { Redis } from 'ioredis'
import type { Counter } from 'prom-client'
import { createIdentity } from '../shared/identity.ts'
import { version } from '../shared/metrics.ts'
import { connectRedis, redisFailure, throughOutages } from '../shared/redis.ts'
import { sleep } from '../shared/retry.ts'
import { scopeOf } from '../shared/scope.ts'
import { consume } from '../shared/streams/consumer.ts'
import { registerLengths } from '../shared/streams/lengths.ts'
import { streamMetrics } from '../shared/streams/metrics.ts'
import { firstStream, namedGroups, parseStreamGroups } from '../shared/streams/names.ts'
import { createProducer } from '../shared/streams/producer.ts'
import { createRequeue } from '../shared/streams/requeue.ts'
import { endResyncs } from '../shared/streams/resyncs.ts'
import { readState } from '../shared/streams/state.ts'
import { runTogether, type Worker } from '../shared/worker.ts'
import { type Board, createBoard, type Tally } from './board.ts'
import { createFetcher } from './fetch.ts'
import { createHandler, decodeAsked } from './handle.ts'
import { createHosts } from './hosts.ts'
import { createMemory } from './memory.ts'
import { type BackfillerMetrics, createMetrics } from './metrics.ts'
import type { options } from './options.ts'
import { createPace } from './pace.ts'
import { backfill, maxBatchBytes, passOn } from './repo.ts'
import { createSlots } from './slots.ts'
import { createAppender } from './together.ts'

/** Requests in hand for each slot: more than can be slow and wait for their time taken together. */
const inHandPerSlot = 8
/** Places for repos whose hosts are slow, for each slot: they cost a connection and little else. */
const slowPerSlot = 2
/** Requests that wait in hand until they are due, for each slot. */
const waitingPerSlot = 2
/** Questions to the directory at once, as fast as it answers until it says that that is too fast. */
const directory = { concurrency: 100, spacingMs: 0, patientMs: 5_000 }
const identityTimeoutMs = 15_000
/** Each repo is asked for once, so little is gained by remembering documents for long. */
const identityTtlMs = 600_000
const identityEntries = 20_000
const watchEveryMs = 2_000

/** Runs until the signal aborts; then downloads are given up, and their requests stay pending. */
export async function runBackfiller(worker: Worker<typeof options>): Promise<void> {
  const { config, log, signal, registry, health } = worker
  const metrics = createMetrics(registry)
  const streams = streamMetrics(registry, 'backfiller')
  const streamGroups = parseStreamGroups(config.streamGroups)
  if (config.skipSignature) log.warn('signatures are not verified: anyone can forge a repo')

  await using redis = connectRedis({ redisUrl: config.redisUrl, log, name: 'sluice/backfiller' })
  using identity = createIdentity({
    plcUrl: config.plcUrl,
    handleResolver: config.handleResolver,
    allowPrivateHosts: config.allowPrivateHosts,
    timeoutMs: identityTimeoutMs,
    maxEntries: identityEntries,
    ttlMs: identityTtlMs,
  })
  using fetcher = createFetcher({
    timeoutMs: config.httpTimeoutSecs * 1_000,
    maxBytes: config.maxCarBytes,
    userAgent: userAgent(config.contact),
    allowPrivateHosts: config.allowPrivateHosts,
  })
  const hosts = createHosts()
  const slots = createSlots({
    fast: config.concurrency,
    slow: config.concurrency * slowPerSlot,
  })
  const pace = createPace(() => slots.full)
  const board = createBoard(hosts, () => tallyOf(metrics))
  const requestStreams = [firstStream(config.requestStream), config.requestStream]

  registerLengths({ redis, streams: requestStreams, registry, service: 'backfiller' })

  await runTogether(signal, [
    (signal) => watch(redis, config, { metrics, board, requestStreams }, signal),
    async (signal) => {
      const producer = await untilStopped(
        signal,
        createProducer({
          redis,
          stream: config.firehoseStream,
          highWater: {
            length: config.highWaterMark,
            memoryRatio: config.memoryHighWater,
            memoryLimitBytes: config.memoryLimitBytes,
          },
          groups: namedGroups(streamGroups, config.firehoseStream),
          signal,
          log,
          metrics: streams,
        }),
      )
      if (producer === null) return
      const appender = createAppender(producer, { entries: config.batchSize, bytes: maxBatchBytes })
      const repos = {
        identity,
        directory: createHosts({ ...directory, mostWaiting: config.concurrency * inHandPerSlot }),
        hosts,
        fetcher,
        appender,
        slots,
        pace,
        board,
        memory: createMemory(config.memoryBytes),
        scope: config.collections,
        inScope: scopeOf(config.collections),
        batchSize: config.batchSize,
        skipSignature: config.skipSignature,
        metrics,
      }
      const serve = (stream: string, urgent: boolean) => {
        const counting = namedGroups(streamGroups, stream, config.group)
        const alone = counting.length === 1
        const handle = createHandler({
          backfill: (did, signal, trace) => backfill(did, { ...repos, urgent }, signal, trace),
          end: async (ending, signal) => {
            await passOn(ending, appender)
            await throughOutages(() => endResyncs(redis, [ending.did]), signal)
          },
          requeue: createRequeue({ redis, stream, group: config.group, alone }),
          pace,
          mostWaiting: config.concurrency * waitingPerSlot,
          maxRetries: config.maxRetries,
          retry: { initialMs: config.retryInitialMs, maxMs: config.retryMaxMs },
          metrics,
          log,
        })
        return consume({
          redis,
          stream,
          group: config.group,
          name: config.consumer,
          batchSize: 1,
          concurrency: config.concurrency * inHandPerSlot,
          decode: decodeAsked,
          apply: (entries, signal) => Promise.all(entries.map((entry) => handle(entry, signal))),
          streamGroups,
          deadLetterStream: config.deadLetterStream,
          deadLetterMaxLength: config.dlqMaxLength,
          signal,
          log,
          metrics: streams,
          health: health.part(stream),
        })
      }
      const [first = '', bulk = ''] = requestStreams
      await runTogether(signal, [() => serve(first, true), () => serve(bulk, false)])
    },
  ])
}

/** Null when it fails because of the stop: whoever waits for Redis has nothing in hand to lose. */
async function untilStopped<T>(signal: AbortSignal, opening: Promise<T>): Promise<T | null> {
  try {
    return await opening
  } catch (error) {
    if (signal.aborted) return null
    throw error
  }
}

/** Keeps what is shown of the streams and of the work current, whether anything is read or not. */
async function watch(
  redis: Redis,
  { firehoseStream, requestStream, group, consumer }: Worker<typeof options>['config'],
  {
    metrics,
    board,
    requestStreams,
  }: { metrics: BackfillerMetrics; board: Board; requestStreams: readonly string[] },
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    try {
      metrics.outputLength.set(await redis.xlen(firehoseStream))
      let waiting = 0
      for (const stream of requestStreams) {
        const { length, groups } = await readState(redis, stream)
        waiting += groups.find(({ name }) => name === group)?.lag ?? length
      }
      metrics.waiting.set(waiting)
      await board.show(redis, { stream: requestStream, consumer })
    } catch (error) {
      // Until Redis is back the last numbers stand; the consumer tells of the outage.
      if (redisFailure(error) === 'fault') throw error
    }
    await sleep(watchEveryMs, signal)
  }
}

async function tallyOf(metrics: BackfillerMetrics): Promise<Tally> {
  const sum = async (metric: Counter | Counter<string>) =>
    (await metric.get()).values.reduce((total, { value }) => total + value, 0)
  return {
    done: await sum(metrics.processed),
    records: await sum(metrics.extracted),
    failed: await sum(metrics.failed),
    ended: await sum(metrics.ended),
    deadLettered: await sum(metrics.deadLettered),
  }
}

function userAgent(contact: string | null): string {
  return `sluice-backfiller/${version}${contact === null ? '' : ` (+${contact})`}`
}
