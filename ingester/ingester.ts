/** The ingester: relays, labelers and lists of repos, into the streams. */
import type { Redis } from 'ioredis'
import { crashPoint } from '../shared/crash-point.ts'
import { errorText } from '../shared/errors.ts'
import { createIdentity } from '../shared/identity.ts'
import { connectRedis, throughOutages } from '../shared/redis.ts'
import { sleep } from '../shared/retry.ts'
import { scopeOf } from '../shared/scope.ts'
import { type Gap, openGap } from '../shared/streams/gaps.ts'
import { registerLengths } from '../shared/streams/lengths.ts'
import { keepMarking } from '../shared/streams/marks.ts'
import { streamMetrics } from '../shared/streams/metrics.ts'
import {
  chainKey,
  cursorKeys,
  fenceKey,
  namedGroups,
  parseStreamGroups,
  streams,
} from '../shared/streams/names.ts'
import { createProducer, takeFence } from '../shared/streams/producer.ts'
import { relistAsked, relistBegun } from '../shared/streams/relist.ts'
import { wantResyncs } from '../shared/streams/resyncs.ts'
import { runTogether, type Worker } from '../shared/worker.ts'
import { keepRequestingResyncs } from './chain-resyncs.ts'
import { createDeadLetters } from './dead-letter.ts'
import { keepDiscovering } from './discover.ts'
import { follow } from './follow.ts'
import { keepClosingGaps } from './gap-pass.ts'
import { type Host, parseHost } from './host.ts'
import { createKeys } from './keys.ts'
import { createLabelTranslation } from './labeler.ts'
import { createMetrics, type IngesterMetrics } from './metrics.ts'
import type { options } from './options.ts'
import { createProver } from './prover.ts'
import { beginAnew, listRepos } from './repo-list.ts'
import { createSaid } from './said.ts'
import { createUnproved } from './unproved.ts'
import { createVerifier } from './verify.ts'

/** A PLC look-up takes 20 to 200 ms; a commit waits 5 s at most. */
const identityTimeoutMs = 4_000
/** At 60 bytes each; some 300,000 accounts write in an hour. */
const identitiesCached = 1_000_000
const labelersCached = 1_000
/** Two cores are kept busy by them and the main thread. */
const proverThreads = 2
/** Labelers do not announce a change of their key: a signature that fails looks for it. */
const labelerTtlMs = 3_600_000
const lengthsEveryMs = 5_000
const relistCheckMs = 1_000
const awayEveryMs = 250

type Part = (signal: AbortSignal) => Promise<void>

/**
 * Follows every source of its mode until the signal aborts. Several relays are each followed by
 * themselves: of what two of them send, the first copy is appended.
 */
export async function runIngester(worker: Worker<typeof options>): Promise<void> {
  const { config, log, registry } = worker
  const metrics = createMetrics(registry)
  await using redis = connectRedis({ redisUrl: config.redisUrl, log, name: 'ingester' })
  const room: Room = { worker, redis, metrics, streamMetrics: streamMetrics(registry, 'ingester') }
  const reads = (mode: 'firehose' | 'backfill' | 'labeler') =>
    config.mode === 'all' || config.mode === mode

  const relays = config.relayHosts.map(parseHost)
  const labelers = config.labelerHosts.map(parseHost)
  const parts: Part[] = [(signal) => watchLengths(room, signal)]
  if (reads('firehose') && relays.length > 0)
    parts.push((signal) => relayPart(room, relays, signal))
  if (reads('labeler') && labelers.length > 0) {
    parts.push((signal) => labelerPart(room, labelers, signal))
  }
  if (reads('backfill') && relays.length > 0) {
    const part = config.discovery === 'hosts' ? discoverPart : listPart
    parts.push((signal) => part(room, relays, signal))
  }
  log.info(
    { mode: config.mode, relays: relays.map(nameOf), labelers: labelers.map(nameOf) },
    'reading',
  )
  registerLengths({
    redis,
    streams: Object.values(streams),
    registry,
    service: 'ingester',
  })
  await runTogether(worker.signal, parts.map(unlessStopped))
}

/** At the stop Redis may be away, and whatever waits for it then fails: that is no failure. */
function unlessStopped(part: Part): Part {
  return async (signal) => {
    try {
      await part(signal)
    } catch (error) {
      if (!signal.aborted) throw error
    }
  }
}

interface Room {
  worker: Worker<typeof options>
  redis: Redis
  metrics: IngesterMetrics
  streamMetrics: ReturnType<typeof streamMetrics>
}

async function relayPart(room: Room, hosts: readonly Host[], signal: AbortSignal): Promise<void> {
  const { config, log } = room.worker
  const { metrics, redis } = room
  using identity = createIdentity({
    plcUrl: config.plcUrl,
    handleResolver: config.handleResolver,
    allowPrivateHosts: config.allowPrivateHosts,
    timeoutMs: identityTimeoutMs,
    // What is found is kept in a smaller form, by `keys`.
    maxEntries: 0,
    ttlMs: 0,
  })
  const keys = createKeys({ redis, identity, cached: identitiesCached, signal, metrics })
  const unproved = createUnproved({
    redis,
    keys,
    deadLetters: deadLettersOf(room, streams.live, signal),
    resync: async (repo) => (await wantResyncs(redis, [repo])) === 1,
    signal,
    log,
    metrics,
  })
  // One relay says nothing twice, and what it says again has a reason.
  const said = hosts.length > 1 ? createSaid() : null
  await using prover = createProver({
    mode: config.verify,
    collections: config.collections,
    threads: config.threads ?? (config.verify === 'none' ? 0 : proverThreads),
    signal,
  })
  const marked = hosts.map(({ raw, name: host }) => {
    return { host, key: cursorKeys(streams.live, raw).key }
  })
  const mark: Part = (signal) =>
    keepMarking({ redis: room.redis, stream: streams.live, hosts: marked, signal })
  const resyncs: Part = (signal) =>
    keepRequestingResyncs({
      redis,
      perMinute: config.resyncsPerMinute,
      host: hosts[0]?.http ?? '',
      signal,
      log,
      metrics,
    })
  const progress = new Map<string, number>()
  const closing = hosts.map(
    (host): Part =>
      (signal) =>
        keepClosingGaps({
          redis,
          host,
          stream: streams.live,
          progress: () => progress.get(host.name) ?? null,
          signal,
          log: log.child({ host: host.name, stream: streams.live }),
          metrics,
        }),
  )
  const endpoint: Endpoint = {
    stream: streams.live,
    method: 'com.atproto.sync.subscribeRepos',
    highWaterMark: config.firehoseHighWaterMark ?? config.highWaterMark,
    translation: (log, signal) =>
      createVerifier({
        keys,
        unproved,
        ...(said !== null && { said }),
        mode: config.verify,
        unavailable: config.verifyUnavailable,
        scope: scopeOf(config.collections),
        prover,
        signal,
        log,
        metrics,
      }),
    onFrame: () => metrics.firehoseEvents.inc(),
    onAppended: (entries) => metrics.streamEvents.inc(entries),
    onProgress: (host, time) => progress.set(host.name, time),
    notTooMany: () => prover.notTooMany(),
    ...(said !== null && { onRewound: () => said.clear() }),
  }
  await runTogether(signal, [
    (signal) => followAll(room, hosts, signal, endpoint),
    mark,
    resyncs,
    ...closing,
    ...(config.verify === 'none' ? [] : [(signal: AbortSignal) => unproved.run(signal)]),
  ])
}

async function labelerPart(room: Room, hosts: readonly Host[], signal: AbortSignal): Promise<void> {
  const { config } = room.worker
  const { metrics } = room
  using identity = createIdentity({
    plcUrl: config.plcUrl,
    allowPrivateHosts: config.allowPrivateHosts,
    timeoutMs: identityTimeoutMs,
    maxEntries: labelersCached,
    ttlMs: labelerTtlMs,
  })
  await followAll(room, hosts, signal, {
    stream: streams.labels,
    method: 'com.atproto.label.subscribeLabels',
    highWaterMark: config.labelHighWaterMark ?? config.highWaterMark,
    translation: (log, signal) => {
      const deadLetters = deadLettersOf(room, streams.labels, signal)
      return createLabelTranslation({ identity, deadLetters, signal, log, metrics })
    },
    onFrame: () => metrics.labelerEvents.inc(),
    onAppended: (entries) => metrics.labelsWritten.inc(entries),
  })
}

interface Endpoint {
  stream: string
  method: string
  highWaterMark: number
  translation: (
    log: Worker<typeof options>['log'],
    signal: AbortSignal,
  ) => ReturnType<typeof createVerifier>
  onFrame: () => void
  onAppended: (entries: number) => void
  onProgress?: (host: Host, time: number) => void
  notTooMany?: () => Promise<void>
  onRewound?: () => void
}

async function followAll(
  room: Room,
  hosts: readonly Host[],
  signal: AbortSignal,
  endpoint: Endpoint,
): Promise<void> {
  const { config, log, health } = room.worker
  const { stream, method, onFrame, onAppended, onRewound, notTooMany } = endpoint
  const { onProgress = () => {} } = endpoint
  const fence = await takeFence(room.redis, signal, fenceOf(stream))
  crashPoint('ingester.fence-taken', stream)
  const followOne = (host: Host): Part => {
    const part = health.part(`${stream} ${host.name}`)
    return async (signal) => {
      const hostLog = log.child({ host: host.name, stream })
      const { highWaterMark } = endpoint
      const producer = await openProducer(room, { stream, host, fence, highWaterMark, signal })
      await follow({
        host,
        method,
        stream,
        start: config.start,
        producer,
        translate: endpoint.translation(hostLog, signal),
        deadLetters: deadLettersOf(room, stream, signal),
        batchSize: config.batchSize,
        batchTimeoutMs: config.batchTimeoutMs,
        idleTimeoutMs: config.idleTimeoutMs,
        signal,
        log: hostLog,
        metrics: room.metrics,
        health: part,
        onFrame,
        onAppended,
        ...(onRewound && { onRewound }),
        ...(notTooMany && { notTooMany }),
        onProgress: (time) => onProgress(host, time),
        openGap: (gap) => noteGap(room, { ...gap, host: host.name, stream }, host, signal),
      })
    }
  }
  await runTogether(signal, hosts.map(followOne))
}

/** Opens a gap in the ledger, with a time before which nothing of it is, where that is known. */
async function noteGap(
  { redis }: Room,
  gap: Pick<Gap, 'host' | 'stream' | 'reason' | 'from' | 'to'>,
  { raw }: Host,
  signal: AbortSignal,
): Promise<void> {
  await throughOutages(async () => {
    const written = await redis.hget(chainKey, cursorKeys(gap.stream, raw).key)
    const [seq, time] = written?.split(' ') ?? []
    // Earlier than the gap is as good: more repos are looked at, none is left out.
    const isBefore = gap.from !== null && Number(seq) <= Number(gap.from)
    const since = time !== undefined && time !== '' && isBefore ? time : null
    await openGap(redis, { ...gap, since })
  }, signal)
}

/** Reads the list of every host that the first relay knows. */
async function discoverPart(room: Room, [relay]: readonly Host[], signal: AbortSignal) {
  const { config, log, health } = room.worker
  if (relay === undefined) return
  health.part('discovery').ready()
  await keepDiscovering({
    redis: room.redis,
    relay: relay.http,
    allowPrivateHosts: config.allowPrivateHosts,
    highWaterMark: config.repoHighWaterMark ?? config.highWaterMark,
    signal,
    log,
    report: ({ hosts, done, failed, repos, secondsLeft }) => {
      const { discoveredHosts, discoveredRepos, discoverySeconds, backfillComplete } = room.metrics
      discoveredRepos.set(repos)
      discoverySeconds.set(secondsLeft ?? Number.NaN)
      discoveredHosts.set({ state: 'done' }, done)
      discoveredHosts.set({ state: 'failed' }, failed)
      discoveredHosts.set({ state: 'left' }, hosts - done - failed)
      backfillComplete.set(hosts === done ? 1 : 0)
    },
  })
}

/** Lists that have been read to their end stay read; this part then only waits for the stop. */
async function listPart(room: Room, hosts: readonly Host[], signal: AbortSignal): Promise<void> {
  const { config, log, health } = room.worker
  const stream = streams.requests
  const fence = await takeFence(room.redis, signal, fenceOf(stream))
  crashPoint('ingester.fence-taken', stream)
  const unfinished = new Set(hosts)
  const listOne = (host: Host): Part => {
    const part = health.part(`${stream} ${host.name}`)
    return async (signal) => {
      const highWaterMark = config.repoHighWaterMark ?? config.highWaterMark
      const producer = await openProducer(room, { stream, host, fence, highWaterMark, signal })
      const options = {
        ...{ host, producer, signal, log: log.child({ stream }) },
        ...{
          deadLetters: deadLettersOf(room, stream, signal),
          metrics: room.metrics,
          health: part,
        },
      }
      while ((await listRepos(options)) === 'done') {
        unfinished.delete(host)
        room.metrics.backfillComplete.set(unfinished.size === 0 ? 1 : 0)
        await untilRelist(room, host, signal)
        if (signal.aborted) return
        await beginAnew(producer)
        await throughOutages(() => relistBegun(room.redis, host.name), signal)
        unfinished.add(host)
        room.metrics.backfillComplete.set(0)
        log.info({ host: host.name, stream }, 'the list of repos is read again, as was asked')
      }
    }
  }
  await runTogether(signal, hosts.map(listOne))
}

/** Waits until an operator wants the list again, or the stop. */
async function untilRelist({ redis }: Room, host: Host, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    if (await throughOutages(() => relistAsked(redis, host.name), signal)) return
    await sleep(relistCheckMs, signal)
  }
}

function openProducer(
  { worker, redis, streamMetrics }: Room,
  options: {
    stream: string
    host: Host
    fence: Awaited<ReturnType<typeof takeFence>>
    highWaterMark: number
    signal: AbortSignal
  },
) {
  const { stream, host, fence, highWaterMark, signal } = options
  const { config, log } = worker
  const kind = stream === streams.requests ? 'opaque' : 'seq'
  return createProducer({
    redis,
    stream,
    cursor: { ...cursorKeys(stream, host.raw), kind },
    ...(stream === streams.live ? { chain: { host: host.name } } : {}),
    fence,
    highWater: {
      length: highWaterMark,
      memoryRatio: config.memoryHighWater,
      memoryLimitBytes: config.memoryLimitBytes,
    },
    groups: namedGroups(parseStreamGroups(config.streamGroups), stream),
    signal,
    log,
    metrics: streamMetrics,
  })
}

function deadLettersOf({ worker, redis }: Room, stream: string, signal: AbortSignal) {
  const { config, log } = worker
  return createDeadLetters({ redis, stream, maxLength: config.dlqMaxLength, signal, log })
}

/** Modes may run as processes of their own, so each stream has its fence. */
function fenceOf(stream: string): string {
  return stream === streams.live ? fenceKey : `${fenceKey}:${stream}`
}

/** Keeps the gauges of the streams' lengths, and tells whether Redis answers. */
async function watchLengths({ worker, redis, metrics }: Room, signal: AbortSignal): Promise<void> {
  const part = worker.health.part('redis')
  const gauges = [
    [streams.live, metrics.liveLength],
    [streams.backfill, metrics.backfillLength],
    [streams.labels, metrics.labelLength],
    [streams.requests, metrics.requestLength],
  ] as const
  while (!signal.aborted) {
    try {
      for (const [stream, gauge] of gauges) gauge.set(await redis.xlen(stream))
      part.ready()
      await sleep(lengthsEveryMs, signal)
    } catch (error) {
      part.notReady(errorText(error))
      await sleep(awayEveryMs, signal)
    }
  }
}

function nameOf(host: Host): string {
  return host.name
}
