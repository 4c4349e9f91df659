/** Turns at other people's hosts: how many at once, how close together, and when to leave one alone. */

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
  /** The host has said this of its limits. */
  heard: (limits: Limits) => void
  /** The host has done what it should, which may be to say no. */
  worked: () => void
  /** The host itself has failed: no answer, a broken one, or one that says that it can not. */
  failed: () => void
}

/** A host is left alone for so long that nobody should wait for it in line. */
export class HostPausedError extends Error {
  override readonly name = 'HostPausedError'
  /** When it may be asked again, in milliseconds since 1970. */
  readonly until: number
  constructor(host: string, until: number) {
    super(`${host} is left alone until ${new Date(until).toISOString()}`)
    this.until = until
  }
}

export interface Hosts {
  /**
   * Waits for a turn at a host. Throws HostPausedError when the host is left alone for long, also
   * when that begins while we wait; and the signal's reason when that aborts first.
   */
  turn: (host: string, signal: AbortSignal) => Promise<Turn>
  /** Hosts that are remembered. */
  readonly size: number
}

export interface HostsOptions {
  /** Requests at one host at once. */
  concurrency?: number
  /** Milliseconds between two requests to a host that has told nothing. */
  spacingMs?: number
  /** Failures in a row after which a host is left alone, longer each time. */
  patience?: number
  coolingMs?: number
  maxCoolingMs?: number
  /** A longer pause than this sends those in line away. */
  patientMs?: number
}

interface Waiter {
  go: () => void
  leave: (reason: unknown) => void
}

/** A pause that nobody should wait for in line: longer than the first few steps of cooling off. */
export const longPauseMs = 20_000
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
  failures: number
}

/**
 * One limiter for all hosts; a host that is slow, away or angry delays only its own requests.
 * Defaults: 4 at once and 20 a second, which is what the large hosts allow to one client.
 */
export function createHosts(options: HostsOptions = {}): Hosts {
  const { concurrency = 4, spacingMs = 50, patience = 3 } = options
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
      failures: 0,
    }
    hosts.set(name, host)
    return host
  }

  const pause = (host: Host, ms: number) => {
    host.notBefore = Math.max(host.notBefore, Date.now() + Math.min(ms, maxPauseMs))
    if (!isPausedLong(host)) return
    const reason = new HostPausedError(host.name, host.notBefore)
    for (const waiter of [...host.waiting]) waiter.leave(reason)
  }

  const isPausedLong = (host: Host) => host.notBefore - Date.now() > patientMs

  /** Lets the next one go, or arranges to look again when it may. */
  const advance = (host: Host): void => {
    if (host.timer !== null || host.waiting.length === 0 || host.running >= concurrency) return
    const waitMs = host.notBefore - Date.now()
    if (waitMs > 0) {
      host.timer = setTimeout(() => {
        host.timer = null
        advance(host)
      }, waitMs)
      return
    }
    host.running += 1
    pause(host, host.spacingMs)
    host.waiting.shift()?.go()
    advance(host)
  }

  const learn = (host: Host, { remaining, resetAt, retryAfterMs }: Limits) => {
    if (retryAfterMs !== undefined) pause(host, retryAfterMs)
    if (remaining === undefined || resetAt === undefined) return
    const leftMs = Math.min(Math.max(0, resetAt - Date.now()), maxPauseMs)
    // What is left of the window is shared out evenly, so that it is used up but never overdrawn.
    if (remaining > 0) host.spacingMs = Math.max(spacingMs, leftMs / remaining)
    else pause(host, leftMs)
  }

  const begin = (host: Host): Turn => {
    let ended = false
    return {
      heard: (limits) => learn(host, limits),
      worked: () => {
        host.failures = 0
      },
      failed: () => {
        host.failures += 1
        const beyond = host.failures - patience
        if (beyond >= 0) pause(host, Math.min(maxCoolingMs, coolingMs * 2 ** Math.min(beyond, 20)))
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
    turn: (name, signal) =>
      new Promise((resolve, reject) => {
        if (signal.aborted) return reject(signal.reason)
        const host = hostOf(name)
        if (isPausedLong(host)) return reject(new HostPausedError(name, host.notBefore))
        const waiter: Waiter = {
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
        host.waiting.push(waiter)
        advance(host)
      }),
    get size() {
      return hosts.size
    },
  }
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
