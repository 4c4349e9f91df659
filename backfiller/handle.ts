/** One request to its outcome: done, ended, set aside, or put back for later. */
import { crashPoint } from '../shared/crash-point.ts'
import { InvalidEventError } from '../shared/errors.ts'
import { type BackfillRequest, decodeRequest } from '../shared/events.ts'
import type { Logger } from '../shared/log.ts'
import { throughOutages } from '../shared/redis.ts'
import { backoff, sleep } from '../shared/retry.ts'
import type { Entry, Outcome } from '../shared/streams/consumer.ts'
import { type Requeue, requeued } from '../shared/streams/requeue.ts'
import { type Failure, failureOf, type Stage } from './failures.ts'
import { NotNowError } from './hosts.ts'
import type { BackfillerMetrics } from './metrics.ts'
import type { Pace } from './pace.ts'
import type { Ending, Snapshot, Trace } from './repo.ts'

export interface HandlerOptions {
  /** Does the work. Throws Failure, NotNowError, and whatever is no failure of the repo. */
  backfill: (did: string, signal: AbortSignal, trace: Trace) => Promise<Snapshot>
  /** Passes on that there is no repo to be had; repeating it is harmless. */
  end: (ending: Ending, signal: AbortSignal) => Promise<void>
  requeue: Requeue
  pace: Pace
  /** Requests that may wait in hand until they are due. */
  mostWaiting: number
  /** Tries after the first. */
  maxRetries: number
  retry: { initialMs: number; maxMs: number }
  metrics: BackfillerMetrics
  log: Logger
}

/** A request with the fields of its entry, or why it can't be read as one. */
export type Asked = { request: BackfillRequest; fields: readonly string[] } | { invalid: string }

type Handler = (entry: Pick<Entry<Asked>, 'id' | 'event'>, signal: AbortSignal) => Promise<Outcome>

/** Reads an entry; what is no request gets its dead letter from the handler, with all its fields. */
export function decodeAsked(fields: readonly string[]): Asked {
  try {
    return { request: decodeRequest(fields), fields }
  } catch (error) {
    if (!(error instanceof InvalidEventError)) throw error
    return { invalid: error.message }
  }
}

/** A host that asks to come back later has not failed, so it is not a try; until it has for a day. */
const limitedMs = 86_400_000

/** Who has to wait longer than this goes back to the end of the queue. */
const longestHeldMs = 20_000

/**
 * Brings requests to their outcome: `applied`, `refused:` with what the host or directory says of
 * the account, a dead letter, or `requeued`: what failed and may pass, what has to wait, and what is
 * in hand when the signal aborts stands at the end of the stream then, with what is to be remembered
 * of it. Requests for one account are served one after the other.
 */
export function createHandler(options: HandlerOptions): Handler {
  const underWay = new Map<string, Promise<unknown>>()
  const waiting = { count: 0 }
  return async ({ id, event }, signal) => {
    if ('invalid' in event) {
      return deadLetter({ reason: 'invalid', message: event.invalid }, { attempt: 1 }, options)
    }
    const { did } = event.request
    const before = underWay.get(did) ?? Promise.resolve()
    const mine = before
      .catch(() => {})
      .then(() => handle({ id, ...event, waiting }, options, signal))
    underWay.set(did, mine)
    try {
      return await mine
    } finally {
      if (underWay.get(did) === mine) underWay.delete(did)
    }
  }
}

interface Handling {
  id: string
  request: BackfillRequest
  fields: readonly string[]
  /** How many of all requests wait in hand. */
  waiting: { count: number }
}

/** What is remembered of a request that is put back. */
interface Later {
  not_before?: string
  pds?: string
  attempts?: number
  first_failed_at?: string
}

async function handle(
  handling: Handling,
  options: HandlerOptions,
  signal: AbortSignal,
): Promise<Outcome> {
  const { id, request, fields } = handling
  const { requeue, pace, log } = options
  crashPoint('backfiller.asked')
  try {
    const isDue = await waitUntil(timeOf(request.notBefore), handling, options, signal)
    const result = isDue ? await tryOnce(handling, options, signal) : { later: {} }
    if ('outcome' in result) return result.outcome
    await pace.turn(id, signal)
    signal.throwIfAborted()
    crashPoint('backfiller.before-attempt')
    const changed = withLater(fields, result.later)
    const newId = await throughOutages(() => requeue(id, changed), signal)
    if (newId !== null) pace.wasPutBack(newId)
    crashPoint('backfiller.attempt-noted')
    return { settled: requeued }
  } catch (error) {
    if (!signal.aborted) throw error
    log.info({ did: request.did, entry: id }, 'given back unfinished')
    // For whoever is there. If Redis is not, it stays pending, and is taken over in a minute.
    return requeue(id, fields).then(
      () => ({ settled: requeued }),
      () => 'pending',
    )
  }
}

/** The fields of the entry, the request in them changed; what we do not know of it stays. */
function withLater(fields: readonly string[], later: Later): string[] {
  const at = fields.indexOf('repo')
  const request = { ...JSON.parse(fields[at + 1] ?? ''), ...later }
  return [...fields.slice(0, at + 1), JSON.stringify(request), ...fields.slice(at + 2)]
}

async function tryOnce(
  { id: entry, request }: Handling,
  options: HandlerOptions,
  signal: AbortSignal,
): Promise<{ outcome: Outcome } | { later: Later }> {
  const { backfill, end, log, metrics } = options
  const { did, firstFailedAt, attempts: past = 0 } = request
  const started = performance.now()
  const begun = Date.now()
  const attempt = past + 1
  const trace: Trace = { host: '', attempt, ...pdsOf(request) }
  const countRetry = () => {
    if (past > 0) metrics.retries.inc()
  }
  try {
    const { host, rev, records, refused } = await backfill(did, signal, trace)
    countRetry()
    metrics.processed.inc()
    const durationMs = Math.round(performance.now() - started)
    const rest = Object.keys(refused).length === 0 ? {} : { refused }
    log.info({ entry, did, rev, host, attempt, durationMs, count: records, ...rest }, 'repo done')
    return { outcome: 'applied' }
  } catch (error) {
    if (signal.aborted) throw error
    if (error instanceof NotNowError) {
      metrics.requeued.inc()
      const { until } = error
      const not_before = until === 0 ? {} : { not_before: iso(until) }
      return { later: { ...not_before, ...pdsOf(trace) } }
    }
    const failure = failureOf(error)
    if (failure === null) throw error
    countRetry()
    const { reason, message, kind } = failure
    // Who was not asked has been told of by the directory, in this try.
    const { askedAt = begun } = trace
    const fields = { entry, did, host: trace.host, attempt, reason, error: message }
    if (kind === 'ended') {
      await end({ did, reason, askedAt }, signal)
      metrics.ended.inc({ state: reason })
      log.info(fields, 'repo ended')
      return { outcome: `refused:${reason}` }
    }
    count(failure, metrics)
    const now = Date.now()
    const isTry = reason !== 'rate-limited' || now - timeOf(firstFailedAt ?? iso(now)) > limitedMs
    if (kind === 'poison' || (isTry && attempt > options.maxRetries)) {
      await end({ did, reason, askedAt }, signal)
      return { outcome: deadLetter(failure, { attempt, trace, firstFailedAt }, options) }
    }
    const waitMs = Math.max(backoff(attempt, options.retry), failure.retryAfterMs)
    log.info({ ...fields, waitMs: Math.round(waitMs) }, 'repo failed, again later')
    const later = {
      ...pdsOf(trace),
      attempts: isTry ? attempt : past,
      first_failed_at: firstFailedAt ?? iso(now),
      not_before: iso(now + waitMs),
    }
    return { later }
  }
}

/** Kept, so that a request for a host that has to wait is not resolved again and again. */
function pdsOf({ pds }: { pds?: string }): { pds?: string } {
  return pds === undefined ? {} : { pds }
}

function deadLetter(
  { reason, message: error }: { reason: string; message: string },
  {
    attempt,
    trace,
    firstFailedAt,
  }: { attempt: number; trace?: Trace; firstFailedAt?: string | undefined },
  { metrics }: HandlerOptions,
): Outcome {
  metrics.deadLettered.inc()
  const failed_at = iso(Date.now())
  const first_failed_at = firstFailedAt ?? failed_at
  const host = trace?.host ?? ''
  return {
    deadLetter: {
      reason,
      error,
      extra: { attempts: String(attempt), host, first_failed_at, failed_at },
    },
  }
}

const stageMetrics = {
  identity: 'fetchErrors',
  fetch: 'fetchErrors',
  parse: 'parseErrors',
  verify: 'verificationErrors',
} as const satisfies Record<Stage, keyof BackfillerMetrics>

/** Each failed try counts once as failed, once by its reason, and once under the older names. */
function count({ reason, kind, stage }: Failure, metrics: BackfillerMetrics): void {
  metrics.failed.inc()
  metrics.failures.inc({ reason, kind })
  if (reason === 'rate-limited') metrics.rateLimited.inc()
  metrics[stageMetrics[stage]].inc()
}

/**
 * Waits in hand, without a place, for a time that is near; tells whether it has come. Throws the
 * signal's reason when that aborts first.
 */
async function waitUntil(
  time: number,
  { waiting }: Handling,
  { metrics, mostWaiting }: HandlerOptions,
  signal: AbortSignal,
): Promise<boolean> {
  if (time <= Date.now()) return true
  if (time - Date.now() > longestHeldMs || waiting.count >= mostWaiting) return false
  waiting.count += 1
  metrics.sleeping.set(waiting.count)
  try {
    while (time > Date.now()) {
      await sleep(time - Date.now(), signal)
      signal.throwIfAborted()
    }
    return true
  } finally {
    waiting.count -= 1
    metrics.sleeping.set(waiting.count)
  }
}

function timeOf(text: string | undefined): number {
  return text === undefined ? 0 : Date.parse(text)
}

function iso(time: number): string {
  return new Date(time).toISOString()
}
