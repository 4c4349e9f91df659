/** One request to its end: tried, tried again, ended, or set aside. */
import { crashPoint } from '../shared/crash-point.ts'
import { InvalidEventError } from '../shared/errors.ts'
import { type BackfillRequest, decodeRequest } from '../shared/events.ts'
import type { Logger } from '../shared/log.ts'
import { backoff, sleep } from '../shared/retry.ts'
import type { Entry, Outcome } from '../shared/streams/consumer.ts'
import type { AttemptStore, Attempts } from './attempts.ts'
import { type Failure, failureOf, type Stage } from './failures.ts'
import { HostPausedError, longPauseMs } from './hosts.ts'
import type { BackfillerMetrics } from './metrics.ts'
import type { Snapshot, Trace } from './repo.ts'

export interface HandlerOptions {
  /** Does the work. Throws Failure, and whatever is no failure of the repo. */
  backfill: (did: string, signal: AbortSignal, trace: Trace) => Promise<Snapshot>
  attempts: AttemptStore
  /** Tries after the first. */
  maxRetries: number
  retry: { initialMs: number; maxMs: number }
  metrics: BackfillerMetrics
  log: Logger
}

/** A request, or why an entry can't be read as one. */
export type Asked = BackfillRequest | { invalid: string }

type Handler = (entry: Pick<Entry<Asked>, 'id' | 'event'>, signal: AbortSignal) => Promise<Outcome>

/** Reads an entry; what is no request gets its dead letter from the handler, with all its fields. */
export function decodeAsked(fields: readonly string[]): Asked {
  try {
    return decodeRequest(fields)
  } catch (error) {
    if (!(error instanceof InvalidEventError)) throw error
    return { invalid: error.message }
  }
}

/** Who has to wait longer than this is given back to the stream, and delivered again every minute. */
const longestHeldMs = longPauseMs
/** What is given back at once stays bounded: beyond it requests wait in hand, and the intake with them. */
const mostGivenBack = 1_000

/**
 * Brings requests to their outcome: `applied`, `refused:` with what the host or directory says of
 * the account, a dead letter, or `pending` when the signal aborts first or the time for it has not
 * come by far. Requests for one account are served one after the other.
 */
export function createHandler(options: HandlerOptions): Handler {
  const underWay = new Map<string, Promise<unknown>>()
  const parked = new Map<string, number>()
  return async ({ id, event }, signal) => {
    if ('invalid' in event) {
      return deadLetter({ reason: 'invalid', message: event.invalid }, { attempt: 1 }, options)
    }
    const { did } = event
    const before = underWay.get(did) ?? Promise.resolve()
    const mine = before
      .catch(() => {})
      .then(() => handle(id, event, { ...options, parked }, signal))
    underWay.set(did, mine)
    try {
      return await mine
    } finally {
      if (underWay.get(did) === mine) underWay.delete(did)
    }
  }
}

interface Handling extends HandlerOptions {
  /** What was given back for a while: by id, until when. */
  parked: Map<string, number>
}

async function handle(
  id: string,
  { did, notBefore }: BackfillRequest,
  options: Handling,
  signal: AbortSignal,
): Promise<Outcome> {
  const { attempts, log, parked } = options
  parked.delete(id)
  crashPoint('backfiller.asked')
  try {
    let past = await attempts.of(did, id)
    let due = Math.max(timeOf(notBefore), timeOf(past?.retry_at))
    for (;;) {
      if (mayPark(id, due, parked)) return 'pending'
      await waitUntil(due, options.metrics, signal)
      const result = await tryOnce({ did, entry: id, past }, options, signal)
      if ('outcome' in result) {
        await attempts.forget(did)
        crashPoint('backfiller.attempts-forgotten')
        return result.outcome
      }
      if ('next' in result) {
        past = result.next
        crashPoint('backfiller.before-attempt')
        await attempts.keep(did, past)
        crashPoint('backfiller.attempt-noted')
      }
      due = 'next' in result ? timeOf(result.next.retry_at) : result.pausedUntil
    }
  } catch (error) {
    if (!signal.aborted) throw error
    log.info({ did, entry: id }, 'given back unfinished')
    return 'pending'
  }
}

function mayPark(id: string, due: number, parked: Map<string, number>): boolean {
  const now = Date.now()
  if (due - now <= longestHeldMs) return false
  if (parked.size >= mostGivenBack) {
    // Another backfiller may have taken what we gave back: it does not count for ever.
    for (const [other, until] of parked) if (until < now) parked.delete(other)
  }
  if (parked.size >= mostGivenBack) return false
  parked.set(id, due)
  return true
}

interface Try {
  did: string
  entry: string
  past: Attempts | null
}

async function tryOnce(
  { did, entry, past }: Try,
  options: HandlerOptions,
  signal: AbortSignal,
): Promise<{ outcome: Outcome } | { next: Attempts } | { pausedUntil: number }> {
  const { backfill, log, metrics } = options
  const started = performance.now()
  const trace: Trace = { host: '' }
  const attempt = (past?.attempts ?? 0) + 1
  try {
    const { host, rev, records, refused } = await backfill(did, signal, trace)
    if (past !== null) metrics.retries.inc()
    metrics.processed.inc()
    const durationMs = Math.round(performance.now() - started)
    const rest = Object.keys(refused).length === 0 ? {} : { refused }
    log.info({ entry, did, rev, host, attempt, durationMs, count: records, ...rest }, 'repo done')
    return { outcome: 'applied' }
  } catch (error) {
    if (signal.aborted) throw error
    if (error instanceof HostPausedError) return { pausedUntil: error.until }
    const failure = failureOf(error)
    if (failure === null) throw error
    if (past !== null) metrics.retries.inc()
    const { reason, message } = failure
    const fields = { entry, did, host: trace.host, attempt, reason, error: message }
    if (failure.kind === 'ended') {
      metrics.ended.inc({ state: reason })
      log.info(fields, 'repo ended')
      return { outcome: `refused:${reason}` }
    }
    count(failure, metrics)
    if (failure.kind === 'poison' || attempt > options.maxRetries) {
      return { outcome: deadLetter(failure, { attempt, trace, past }, options) }
    }
    const waitMs = Math.max(backoff(attempt, options.retry), failure.retryAfterMs)
    log.info({ ...fields, waitMs: Math.round(waitMs) }, 'repo failed, again later')
    return { next: nextTry({ entry, attempts: attempt, reason, waitMs, past }) }
  }
}

function nextTry(
  now: Pick<Attempts, 'entry' | 'attempts' | 'reason'> & {
    waitMs: number
    past: Attempts | null
  },
): Attempts {
  const { entry, attempts, reason, waitMs, past } = now
  const time = Date.now()
  const first_failed_at = past?.first_failed_at ?? new Date(time).toISOString()
  return {
    entry,
    attempts,
    first_failed_at,
    retry_at: new Date(time + waitMs).toISOString(),
    reason,
  }
}

function deadLetter(
  { reason, message: error }: { reason: string; message: string },
  { attempt, trace, past }: { attempt: number; trace?: Trace; past?: Attempts | null },
  { metrics }: HandlerOptions,
): Outcome {
  metrics.deadLettered.inc()
  const failed_at = new Date().toISOString()
  const first_failed_at = past?.first_failed_at ?? failed_at
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

/** Holds no slot meanwhile. Throws the signal's reason when that aborts first. */
async function waitUntil(time: number, metrics: BackfillerMetrics, signal: AbortSignal) {
  if (time <= Date.now()) return
  metrics.sleeping.inc()
  try {
    while (time > Date.now()) {
      await sleep(Math.min(time - Date.now(), longestHeldMs), signal)
      signal.throwIfAborted()
    }
  } finally {
    metrics.sleeping.dec()
  }
}

function timeOf(text: string | undefined): number {
  return text === undefined ? 0 : Date.parse(text)
}
