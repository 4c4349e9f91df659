/** At-least-once consumption of one stream by one named member of a consumer group. */
import type { Redis } from 'ioredis'
import type { Logger } from 'pino'
import { crashPoint } from '../crash-point.ts'
import { connectLike, redisCode, redisFailure, settled, throughOutages } from '../redis.ts'
import { backoff, sleep } from '../retry.ts'
import { type AwayReport, createDesk, type Desk } from './desk.ts'
import { isAskedToDrain, redisSeconds } from './drain.ts'
import { connectionName, ensureGroup, leaveSeat, takeSeat } from './group.ts'
import { createIntake, type Read } from './intake.ts'
import type { StreamMetrics } from './metrics.ts'
import { deadLetterStream, namedGroups, type StreamGroups } from './names.ts'
import { type DeadLetter, keepFresh, type Place } from './settle.ts'
import { createTrimReport, trimStream } from './trim.ts'

/**
 * What became of an entry. `pending` gives it back: it stays in the group's pending list and is
 * delivered again, to anyone, after `minIdleMs`. `settled`: it has ended so already, in a step that
 * did more.
 */
export type Outcome =
  | 'applied'
  | 'stale'
  | `refused:${string}`
  | { deadLetter: DeadLetter }
  | { settled: string }
  | 'pending'

export interface Entry<E> {
  id: string
  event: E
  /** How often it was delivered, this time included. */
  deliveries: number
}

export interface Consumer<E> {
  /** From `connectRedis`; may be shared. Blocking reads use a connection of their own. */
  redis: Redis
  stream: string
  group: string
  /** Stable across restarts, so that a restarted process finds its own pending entries. */
  name: string
  /** Entries given to `apply` at most. */
  batchSize: number
  /** Batches in flight at most. */
  concurrency: number
  /** Throws `InvalidEventError`; anything else it throws dead-letters the entry as `bug`. */
  decode: (fields: string[]) => E
  /** Entries of one lane are applied in order. Without it any free slot takes the next batch. */
  lane?: (event: E) => string
  /** True: applied alone, once every earlier entry is acknowledged by the group. */
  barrier?: (event: E) => boolean
  /**
   * One outcome an entry, in order. Must be idempotent and all-or-nothing. What it throws is judged
   * by `verdict`: retry, reject (halved down to the entry at fault), crash.
   * The signal aborts at the stop: what cannot end in seconds returns `pending` then.
   */
  apply: (entries: readonly Entry<E>[], signal: AbortSignal) => Promise<readonly Outcome[]>
  /** STREAM_GROUPS, parsed. */
  streamGroups: StreamGroups
  /** Default: `{stream}_dlq`. */
  deadLetterStream?: string
  /** DLQ_MAX_LENGTH: at this length the intake stops. */
  deadLetterMaxLength: number
  signal: AbortSignal
  log: Logger
  metrics: StreamMetrics
  /** Told when the group is there and reading goes on, and when it does not. */
  health?: { ready(): void; notReady(reason: string): void }
  /** How long an entry lies untouched before another consumer takes it. Default 60 000. */
  minIdleMs?: number
  /** Entries that wait aside at most, before nothing new is read. Default 10 000. */
  asideMost?: number
  /** How long a stop may take to finish what is in hand; the rest stays pending. Default 6 000. */
  stopWithinMs?: number
}

const claimEveryMs = 5_000
const trimEveryMs = 5_000
/** Half of what one call of the trimming script takes at most. */
const muchTrimmed = 10_000
const tickMs = 1_000
/** Also a sign of life: a consumer that is silent for 10 s loses its seat. */
const touchAtMostMs = 5_000
const touchPage = 1_000
/** How soon a barrier is seen to be free when other consumers were in its way. */
const barrierPollMs = 200
/** How soon a consumer that has too many barriers aside looks again for what they wait for. */
const crowdedPollMs = 100

/**
 * Reads and applies until the signal aborts, then finishes what is in hand and returns. Trims the
 * stream meanwhile. Throws `DuplicateConsumerError`, and whatever `apply` throws that is a crash.
 */
export async function consume<E>(consumer: Consumer<E>): Promise<void> {
  const { redis, stream, group, name, log, signal, stopWithinMs = 6_000 } = consumer
  const seat = { stream, group, name }
  const place = placeOf(consumer)
  await using reader = connectLike(redis, log, connectionName(seat))
  const away = createAwayReport(consumer)
  await Promise.all([settled(redis, signal), settled(reader, signal)])
  const draining: Draining = { began: 0, asked: false }
  try {
    await throughOutages(() => ensureGroup(redis, stream, group), signal, away.begins)
    await throughOutages(() => takeSeat(redis, reader, seat, signal), signal, away.begins)
    // One more: who starts within the second in which others were asked is not meant.
    draining.began =
      1 + ((await throughOutages(() => redisSeconds(redis), signal, away.begins)) ?? 0)
  } catch (error) {
    if (signal.aborted) return
    throw error
  }

  crashPoint('consumer.seated', stream)
  const crash = new AbortController()
  const stop = AbortSignal.any([signal, crash.signal])
  await using hardStop = abortAfter(stop, stopWithinMs)
  const desk = createDesk(consumer, place, { stop, hardStop: hardStop.signal, away })
  const failed = async (part: () => Promise<void>) => {
    try {
      await part()
    } catch (error) {
      if (!stop.aborted) desk.fail(error)
      crash.abort()
    }
  }
  const done = new AbortController()
  const keeping = [
    failed(() => keep(consumer, { place, desk, draining }, done.signal)),
    failed(() => passBarriers(desk, done.signal)),
  ]
  await failed(() => take(consumer, { reader, desk, away, draining }, stop))
  await desk.drain()
  done.abort()
  await Promise.all(keeping)
  consumer.health?.notReady('stopped')
  if (desk.failures.length > 0) throw desk.failures[0]
  await leaveSeat(redis, seat).catch((err) => log.info({ stream, err }, 'seat not left'))
}

/** Whether new entries are to be left to whoever comes after. */
interface Draining {
  /** By the clock of Redis. */
  began: number
  asked: boolean
}

interface Taking {
  reader: Redis
  desk: Desk
  away: AwayReport
  draining: Draining
}

/** Reads while there is room, until the signal aborts or something crashes. */
async function take<E>(
  consumer: Consumer<E>,
  { reader, desk, away, draining }: Taking,
  stop: AbortSignal,
) {
  const { redis, stream, group, metrics, minIdleMs = 60_000 } = consumer
  const claimEvery = Math.min(claimEveryMs, minIdleMs / 4)
  const intake = createIntake({ ...consumer, reader, minIdleMs, claimEveryMs: claimEvery })
  let failures = 0
  // Not allowed, or away: then the read ends by itself.
  stop.addEventListener('abort', () => void intake.wake().catch(() => {}), { once: true })
  away.ends()
  while (!stop.aborted && desk.failures.length === 0) {
    const room = desk.room()
    if (room === 0) {
      await desk.changed(tickMs)
      continue
    }
    let read: Read
    try {
      read = await intake.next(room, { onlyPending: draining.asked || desk.crowded() })
    } catch (error) {
      intake.restart()
      if (redisCode(error) === 'NOGROUP') {
        consumer.log.warn({ stream, group }, 'the group is gone: made again')
        await throughOutages(() => ensureGroup(redis, stream, group), stop, away.begins)
        continue
      }
      if (redisFailure(error) === 'fault') throw error
      failures += 1
      away.begins()
      await sleep(backoff(failures, { initialMs: 50, maxMs: 1_000 }), stop)
      continue
    }
    failures = 0
    away.ends()
    if (read.entries.length > 0)
      crashPoint(read.from === 'claimed' ? 'consumer.claimed' : 'consumer.read', stream)
    if (read.from === 'claimed') metrics.claimed.inc({ stream }, read.entries.length)
    if (read.gone > 0) metrics.outcomes.inc({ stream, outcome: 'nil' }, read.gone)
    await desk.receive(read.entries)
    const onlyPending = draining.asked || desk.crowded()
    if (read.entries.length === 0 && onlyPending) await desk.changed(crowdedPollMs)
  }
}

/** Shows that Redis does not answer, from whichever call noticed it, until one succeeds. */
function createAwayReport<E>({ stream, health, metrics }: Consumer<E>): AwayReport {
  let state: 'unknown' | 'away' | 'here' = 'unknown'
  return {
    begins(failure = 'away') {
      if (failure !== 'away' || state === 'away') return
      state = 'away'
      metrics.redisAway.set({ stream }, 1)
      health?.notReady('redis is away')
    },
    ends() {
      if (state === 'here') return
      state = 'here'
      metrics.redisAway.set({ stream }, 0)
      health?.ready()
    },
  }
}

async function passBarriers(desk: Desk, done: AbortSignal) {
  while (!done.aborted) {
    try {
      if (await desk.passBarrier()) continue
    } catch (error) {
      if (redisFailure(error) === 'fault' && redisCode(error) !== 'NOGROUP') throw error
    }
    await Promise.race([desk.changed(barrierPollMs), sleep(barrierPollMs, done)])
  }
}

/** Keeps what is in hand from being claimed, retries dead letters, trims. */
async function keep<E>(
  consumer: Consumer<E>,
  { place, desk, draining }: { place: Place; desk: Desk; draining: Draining },
  done: AbortSignal,
) {
  const { redis, stream, group, streamGroups, minIdleMs = 60_000 } = consumer
  const report = createTrimReport(consumer)
  const tick = Math.min(tickMs, minIdleMs / 4)
  const touchEveryMs = Math.min(touchAtMostMs, minIdleMs / 4)
  let touchAt = Date.now() + touchEveryMs
  let trimAt = Date.now() + trimEveryMs
  while (!done.aborted) {
    await sleep(tick, done)
    if (done.aborted) return
    try {
      if (Date.now() >= touchAt) {
        const ids = desk.ids()
        for (let from = 0; from < ids.length; from += touchPage)
          desk.drop(await keepFresh(place, ids.slice(from, from + touchPage)))
        touchAt = Date.now() + touchEveryMs
      }
      await desk.retryCondemned()
      draining.asked = await isAskedToDrain(redis, consumer, draining.began)
      if (Date.now() >= trimAt) {
        await ensureGroup(redis, stream, group)
        const trimmed = await trimStream(redis, stream, namedGroups(streamGroups, stream, group))
        report(trimmed)
        crashPoint('consumer.trimmed', stream)
        // One call takes a bounded part: where there was much to take, there is more.
        trimAt = Date.now() + (trimmed.removed >= muchTrimmed ? 0 : trimEveryMs)
      }
    } catch (error) {
      // An outage, or a group that is gone, is the intake's to deal with.
      if (redisFailure(error) === 'fault' && redisCode(error) !== 'NOGROUP') throw error
    }
  }
}

function placeOf<E>(consumer: Consumer<E>): Place {
  const { redis, stream, group, name, streamGroups, deadLetterMaxLength } = consumer
  return {
    redis,
    stream,
    group,
    name,
    deadLetterMaxLength,
    deadLetterStream: consumer.deadLetterStream ?? deadLetterStream(stream),
    alone: namedGroups(streamGroups, stream, group).length === 1,
  }
}

/** A signal that aborts so long after another one. */
function abortAfter(stop: AbortSignal, ms: number) {
  const controller = new AbortController()
  let timer: NodeJS.Timeout | undefined
  const begin = () => {
    timer = setTimeout(() => controller.abort(), ms)
  }
  if (stop.aborted) begin()
  else stop.addEventListener('abort', begin, { once: true })
  return {
    signal: controller.signal,
    [Symbol.asyncDispose]: async () => {
      clearTimeout(timer)
      stop.removeEventListener('abort', begin)
    },
  }
}
