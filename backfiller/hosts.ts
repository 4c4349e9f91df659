/** Turns at other people's hosts: how many at once, how close together, and when to leave one alone. */
import { line } from './line.ts'

/** What a host says of its limits, from the headers of an answer. */
export interface Limits {
  /** Requests left in this window, and when the next one begins (milliseconds since 1970). */
  remaining?: number
  resetAt?: number
  /** How long it wants to be left alone, in milliseconds. */
  retryAfterMs?: number
}

/** The right to send one request to a host; disposing of it ends it. */
export interface Turn extends Disposable {
  /** Whether the host was slow the last time. */
  readonly slow: boolean
  /** The host has said this of its limits. */
  heard: (limits: Limits) => void
  /** The host has done what it should, which may be to say no. */
  worked: () => void
  /**
   * The host itself has failed: no answer, a broken one, or one that says that it can not. True when
   * it is left alone for a while for that.
   */
  failed: () => boolean
  /** The host takes long: until it is quick again, one request at a time is enough. */
  dragged: () => void
}

/** The request is to come back later, and holds nothing meanwhile. That is nobody's failure. */
export class NotNowError extends Error {
  override readonly name = 'NotNowError'
  /** Not before this time, in milliseconds since 1970; 0 for whenever its turn comes again. */
  readonly until: number
  constructor(message: string, until = 0) {
    super(message)
    this.until = until
  }
}

export interface Hosts {
  /**
   * Waits for a turn at a host; who is urgent comes first. Throws NotNowError when the host is left
   * alone for long, also when that begins while we wait, and when too many wait for it already; and
   * the signal's reason when that aborts first.
   */
  turn: (host: string, signal: AbortSignal, urgent?: boolean) => Promise<Turn>
  /** Throws the NotNowError that `turn` would throw now. */
  check: (host: string) => void
  /** What is known of each host that has been asked lately. */
  all: () => Iterable<HostView>
  /** Hosts that are remembered. */
  readonly size: number
}

/** What is known of a host. */
export interface HostView {
  readonly name: string
  readonly running: number
  readonly waiting: number
  readonly slow: boolean
  /** Milliseconds since 1970. */
  readonly notBefore: number
  /** Requests sent to it, and those that it failed at. */
  readonly asked: number
  readonly failed: number
}

export interface HostsOptions {
  /** Requests at one host at once. */
  concurrency?: number
  /** Milliseconds between two requests, on the average, to a host that has told nothing. */
  spacingMs?: number
  /** So many requests may follow each other at once after a time without any. */
  burst?: number
  /** So many may wait for a turn; the hands are for other hosts too. */
  mostWaiting?: number
  /** Failures in a row after which a host is left alone, longer each time, then tried with one request. */
  patience?: number
  coolingMs?: number
  maxCoolingMs?: number
  /** A longer pause than this sends those in line away. */
  patientMs?: number
}

interface Waiter {
  urgent: boolean
  go: () => void
  leave: (reason: unknown) => void
}

/** A pause that nobody should wait for in line: who waits has a place in the hands. */
const longPauseMs = 500
/** How long a host counts as slow, longer each time in a row: it may only have been busy. */
const slowMs = 10_000
const maxSlowMs = 300_000
/** A host may ask for an hour of silence at most; what says more is mistaken or lying. */
const maxPauseMs = 3_600_000
/** Hosts without requests are forgotten beyond this many. */
const maxIdleHosts = 10_000

interface Host {
  name: string
  running: number
  waiting: Waiter[]
  timer: NodeJS.Timeout | null
  /** Before this time no request is sent. */
  notBefore: number
  spacingMs: number
  /** Requests that may be sent at once, as of a time; one more every `spacingMs`. */
  tokens: number
  tokensAt: number
  failures: number
  /** How often in a row it took long, and until when it counts as slow for that. */
  drags: number
  slowUntil: number
  asked: number
  failed: number
}

/**
 * One limiter for all hosts; a host that is slow, away or angry delays only its own requests.
 * Defaults: 8 at once, and a little less than the 20 a second that the large hosts allow to one client:
 * whoever counts by the second must not find 21.
 */
export function createHosts(options: HostsOptions = {}): Hosts {
  const { concurrency = 8, spacingMs = 52, burst = 2, patience = 3, mostWaiting = 4 } = options
  const { coolingMs = 1_000, maxCoolingMs = 60_000, patientMs = longPauseMs } = options
  const hosts = new Map<string, Host>()

  const hostOf = (name: string): Host => {
    const known = hosts.get(name)
    if (known !== undefined) return known
    forgetIdle(hosts)
    const host: Host = {
      name,
      running: 0,
      waiting: [],
      timer: null,
      notBefore: 0,
      spacingMs,
      tokens: burst,
      tokensAt: Date.now(),
      failures: 0,
      drags: 0,
      slowUntil: 0,
      asked: 0,
      failed: 0,
    }
    hosts.set(name, host)
    return host
  }

  const pause = (host: Host, ms: number) => {
    host.notBefore = Math.max(host.notBefore, Date.now() + Math.min(ms, maxPauseMs))
    if (!isPausedLong(host)) return
    const reason = pausedError(host)
    for (const waiter of [...host.waiting]) waiter.leave(reason)
  }

  const isPausedLong = (host: Host) => host.notBefore - Date.now() > patientMs

  const refill = (host: Host) => {
    const now = Date.now()
    const since = host.spacingMs === 0 ? burst : (now - host.tokensAt) / host.spacingMs
    host.tokens = Math.min(burst, host.tokens + since)
    host.tokensAt = now
  }

  const isSlow = (host: Host) => host.slowUntil > Date.now()

  /** Whether one request at a time is enough. */
  const isTried = (host: Host) => isSlow(host) || host.failures >= patience

  const mostRunning = (host: Host) => (isTried(host) ? 1 : concurrency)

  const refusalOf = (host: Host): NotNowError | null => {
    if (isPausedLong(host)) return pausedError(host)
    // Who waits for a slow host, or for one that fails, would only be in the hands' way.
    const most = isTried(host) ? 1 - host.running : mostWaiting
    if (host.waiting.length < most) return null
    return new NotNowError(`enough requests wait for ${host.name}`)
  }

  /** Lets the next one go, or arranges to look again when it may. */
  const advance = (host: Host): void => {
    if (host.timer !== null || host.waiting.length === 0) return
    if (host.running >= mostRunning(host)) return
    refill(host)
    const untilToken = Math.ceil((1 - host.tokens) * host.spacingMs - 1e-6)
    const waitMs = Math.max(host.notBefore - Date.now(), untilToken)
    if (waitMs > 0) {
      host.timer = setTimeout(() => {
        host.timer = null
        advance(host)
      }, waitMs)
      return
    }
    host.running += 1
    host.asked += 1
    host.tokens -= 1
    host.waiting.shift()?.go()
    advance(host)
  }

  const learn = (host: Host, { remaining, resetAt, retryAfterMs }: Limits) => {
    if (retryAfterMs !== undefined) pause(host, retryAfterMs)
    if (remaining === undefined || resetAt === undefined) return
    const leftMs = Math.min(Math.max(0, resetAt - Date.now()), maxPauseMs)
    // What is left of the window is shared out evenly, so that it is used up but never overdrawn.
    if (remaining === 0) return pause(host, leftMs)
    refill(host)
    host.spacingMs = Math.max(spacingMs, leftMs / remaining)
    host.tokens = Math.min(host.tokens, remaining)
  }

  const begin = (host: Host): Turn => {
    let ended = false
    let dragged = false
    return {
      slow: isSlow(host),
      heard: (limits) => learn(host, limits),
      worked: () => {
        host.failures = 0
        if (!dragged) host.drags = 0
        if (!dragged) host.slowUntil = 0
      },
      dragged: () => {
        dragged = true
        const ms = Math.min(maxSlowMs, slowMs * 2 ** Math.min(host.drags, 20))
        host.drags += 1
        host.slowUntil = Date.now() + ms
      },
      failed: () => {
        host.failures += 1
        host.failed += 1
        const beyond = host.failures - patience
        if (beyond < 0) return false
        pause(host, Math.min(maxCoolingMs, coolingMs * 2 ** Math.min(beyond, 20)))
        return true
      },
      [Symbol.dispose]: () => {
        if (ended) return
        ended = true
        host.running -= 1
        advance(host)
      },
    }
  }

  return {
    turn: (name, signal, urgent = false) =>
      new Promise((resolve, reject) => {
        if (signal.aborted) return reject(signal.reason)
        const host = hostOf(name)
        const refusal = refusalOf(host)
        if (refusal !== null) return reject(refusal)
        const waiter: Waiter = {
          urgent,
          go() {
            signal.removeEventListener('abort', abort)
            resolve(begin(host))
          },
          leave(reason) {
            signal.removeEventListener('abort', abort)
            host.waiting.splice(host.waiting.indexOf(waiter), 1)
            if (host.waiting.length === 0 && host.timer !== null) {
              clearTimeout(host.timer)
              host.timer = null
            }
            reject(reason)
          },
        }
        const abort = () => waiter.leave(signal.reason)
        signal.addEventListener('abort', abort, { once: true })
        line(host.waiting, waiter)
        advance(host)
      }),
    check(name) {
      const host = hosts.get(name)
      const refusal = host === undefined ? null : refusalOf(host)
      if (refusal !== null) throw refusal
    },
    *all() {
      for (const host of hosts.values())
        yield { ...host, waiting: host.waiting.length, slow: isSlow(host) }
    },
    get size() {
      return hosts.size
    },
  }
}

function pausedError({ name, notBefore }: Host): NotNowError {
  return new NotNowError(
    `${name} is left alone until ${new Date(notBefore).toISOString()}`,
    notBefore,
  )
}

function forgetIdle(hosts: Map<string, Host>): void {
  if (hosts.size < maxIdleHosts) return
  const now = Date.now()
  for (const [name, host] of hosts) {
    const idle = host.running === 0 && host.waiting.length === 0 && host.notBefore < now
    if (idle) hosts.delete(name)
  }
}

/** Reads `ratelimit-remaining`, `ratelimit-reset` (seconds, absolute or from now) and `Retry-After`. */
export function limitsOf(headers: Readonly<Record<string, string | string[] | undefined>>): Limits {
  const now = Date.now()
  const remaining = numberOf(headers['ratelimit-remaining'])
  const reset = numberOf(headers['ratelimit-reset'])
  const retryAfterMs = retryAfterOf(headers['retry-after'], now)
  return {
    ...(remaining === undefined ? {} : { remaining }),
    // PDSes send seconds since 1970, the draft standard says seconds from now.
    ...(reset === undefined
      ? {}
      : { resetAt: reset > 1_000_000_000 ? reset * 1_000 : now + reset * 1_000 }),
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
  }
}

function numberOf(header: string | string[] | undefined): number | undefined {
  return typeof header === 'string' && /^\d{1,15}$/.test(header) ? Number(header) : undefined
}

function retryAfterOf(header: string | string[] | undefined, now: number): number | undefined {
  const seconds = numberOf(header)
  if (seconds !== undefined) return Math.min(seconds * 1_000, maxPauseMs)
  // Date.parse also reads much that is no HTTP date.
  const isDate = typeof header === 'string' && header.endsWith(' GMT')
  const date = isDate ? Date.parse(header) : Number.NaN
  return Number.isNaN(date) ? undefined : Math.min(Math.max(0, date - now), maxPauseMs)
}
