/** One request to its end: tried, tried again, ended, or set aside. */
import { InvalidEventError } from '../shared/errors.ts'
import { type BackfillRequest, decodeRequest } from '../shared/events.ts'
import type { Logger } from '../shared/log.ts'
import { backoff, sleep } from '../shared/retry.ts'
import type { Entry, Outcome } from '../shared/streams/consumer.ts'
import type { AttemptStore, Attempts } from './attempts.ts'
import { type Failure, failureOf, type Stage } from './failures.ts'
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

/** A timer can't be set further ahead than this; a request may. */
const longestSleepMs = 86_400_000

/**
 * Brings requests to their outcome: `applied`, `refused:` with what the host or directory says of
 * the account, a dead letter, or `pending` when the signal aborts first. Requests for one account
 * are served one after the other.
 */
export function createHandler(options: HandlerOptions): Handler {
  const underWay = new Map<string, Promise<unknown>>()
  return async ({ id, event }, signal) => {
    if ('invalid' in event) {
      return deadLetter({ reason: 'invalid', message: event.invalid }, { attempt: 1 }, options)
    }
    const { did } = event
    const before = underWay.get(did) ?? Promise.resolve()
    const mine = before.catch(() => {}).then(() => handle(id, event, options, signal))
    underWay.set(did, mine)
    try {
      return await mine
    } finally {
      if (underWay.get(did) === mine) underWay.delete(did)
    }
  }
}

async function handle(
  id: string,
  { did, notBefore }: BackfillRequest,
  options: HandlerOptions,
  signal: AbortSignal,
): Promise<Outcome> {
  const { attempts, log, metrics } = options
  try {
    let past = await attempts.of(did, id)
    await waitUntil(Math.max(timeOf(notBefore), timeOf(past?.retry_at)), metrics, signal)
    for (;;) {
      if (past !== null) metrics.retries.inc()
      const result = await tryOnce({ did, entry: id, past }, options, signal)
      if ('outcome' in result) {
        await attempts.forget(did)
        return result.outcome
      }
      past = result.next
      await attempts.keep(did, past)
      await waitUntil(timeOf(past.retry_at), metrics, signal)
    }
  } catch (error) {
    if (!signal.aborted) throw error
    log.info({ did, entry: id }, 'given back unfinished')
    return 'pending'
  }
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
): Promise<{ outcome: Outcome } | { next: Attempts }> {
  const { backfill, log, metrics } = options
  const started = performance.now()
  const trace: Trace = { host: '' }
  const attempt = (past?.attempts ?? 0) + 1
  try {
    const { host, rev, records, refused } = await backfill(did, signal, trace)
    metrics.processed.inc()
    const durationMs = Math.round(performance.now() - started)
    const rest = Object.keys(refused).length === 0 ? {} : { refused }
    log.info({ entry, did, rev, host, attempt, durationMs, count: records, ...rest }, 'repo done')
    return { outcome: 'applied' }
  } catch (error) {
    const failure = failureOf(error)
    if (failure === null || signal.aborted) throw error
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
      await sleep(Math.min(time - Date.now(), longestSleepMs), signal)
      signal.throwIfAborted()
    }
  } finally {
    metrics.sleeping.dec()
  }
}

function timeOf(text: string | undefined): number {
  return text === undefined ? 0 : Date.parse(text)
}
