/** The backfiller: fetches whole repos, proves them, and puts their records on a stream. */
import type { Redis } from 'ioredis'
import pLimit from 'p-limit'
import { createIdentity } from '../shared/identity.ts'
import { version } from '../shared/metrics.ts'
import { connectRedis, redisFailure } from '../shared/redis.ts'
import { sleep } from '../shared/retry.ts'
import { scopeOf } from '../shared/scope.ts'
import { consume } from '../shared/streams/consumer.ts'
import { registerLengths } from '../shared/streams/lengths.ts'
import { streamMetrics } from '../shared/streams/metrics.ts'
import { namedGroups, parseStreamGroups } from '../shared/streams/names.ts'
import { createProducer } from '../shared/streams/producer.ts'
import { readState } from '../shared/streams/state.ts'
import { runTogether, type Worker } from '../shared/worker.ts'
import { createAttempts } from './attempts.ts'
import { createFetcher } from './fetch.ts'
import { createHandler, decodeAsked } from './handle.ts'
import { createHosts } from './hosts.ts'
import { createMemory } from './memory.ts'
import { type BackfillerMetrics, createMetrics } from './metrics.ts'
import type { options } from './options.ts'
import { backfill } from './repo.ts'

/** Requests in hand for each slot: those that wait for a host or a next try hold none. */
const inHandPerSlot = 4
const identityTimeoutMs = 15_000
/** Each repo is asked for once, so little is gained by remembering documents for long. */
const identityTtlMs = 600_000
const identityEntries = 20_000
const lengthsEveryMs = 2_000

/** Runs until the signal aborts; then downloads are given up, and their requests stay pending. */
export async function runBackfiller(worker: Worker<typeof options>): Promise<void> {
  const { config, log, signal, registry, health } = worker
  const metrics = createMetrics(registry)
  const streams = streamMetrics(registry, 'backfiller')
  const streamGroups = parseStreamGroups(config.streamGroups)
  const part = health.part('stream')
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
  const slots = pLimit(config.concurrency)
  const attempts = createAttempts(redis, signal)

  registerLengths({ redis, streams: [config.requestStream], registry, service: 'backfiller' })

  await runTogether(signal, [
    (signal) => watchLengths(redis, config, metrics, signal),
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
      const repos = {
        identity,
        hosts,
        fetcher,
        producer,
        slots,
        memory: createMemory(config.memoryBytes),
        scope: config.collections,
        inScope: scopeOf(config.collections),
        batchSize: config.batchSize,
        skipSignature: config.skipSignature,
        metrics,
      }
      const handle = createHandler({
        backfill: (did, signal, trace) => backfill(did, repos, signal, trace),
        attempts,
        maxRetries: config.maxRetries,
        retry: { initialMs: config.retryInitialMs, maxMs: config.retryMaxMs },
        metrics,
        log,
      })
      await consume({
        redis,
        stream: config.requestStream,
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
        health: part,
      })
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

/** Keeps the lengths of both streams current, whether anything is read or not. */
async function watchLengths(
  redis: Redis,
  config: Worker<typeof options>['config'],
  metrics: BackfillerMetrics,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    try {
      metrics.outputLength.set(await redis.xlen(config.firehoseStream))
      const { length, groups } = await readState(redis, config.requestStream)
      const group = groups.find(({ name }) => name === config.group)
      metrics.waiting.set(group?.lag ?? length)
    } catch (error) {
      // Until Redis is back the last numbers stand; the consumer tells of the outage.
      if (redisFailure(error) === 'fault') throw error
    }
    await sleep(lengthsEveryMs, signal)
  }
}

function userAgent(contact: string | null): string {
  return `sluice-backfiller/${version}${contact === null ? '' : ` (+${contact})`}`
}
