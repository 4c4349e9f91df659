/** Connections to Redis, and what its failures mean. */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { Redis, type RedisOptions } from 'ioredis'
import type { Logger } from 'pino'
import { backoff, sleep } from './retry.ts'

export interface RedisSettings {
  /**
   * redis:// or rediss://, with user, password and database; `?ca=/path` names a CA file. With
   * `?sentinels=host:port,…` its host is a name, and the Sentinels tell who is its master.
   */
  redisUrl: string
  log: Logger
  /** Shown by CLIENT LIST. */
  name?: string
}

/** A connection that closes at the end of `await using`. */
export type Connection = Redis & AsyncDisposable

/** Longer than any script or fork stalls Redis; a peer that vanished without a word is given up then. */
const silentMs = 10_000

/**
 * A connection that queues nothing while Redis is away and sends nothing twice: a command then fails
 * at once, and its caller decides. It reconnects for ever, and logs when Redis goes and comes.
 */
export function connectRedis({ redisUrl, log, name }: RedisSettings): Connection {
  const { href, place } = redisPlace(redisUrl)
  const options: Settings = { ...settings, ...place }
  if (name !== undefined) options.connectionName = name
  return disposable(new Redis(href, options), log)
}

/**
 * What ioredis takes for a `redisUrl`. Through Sentinels, who is master is asked at every connection.
 * Sentinel cuts the connections of a master that it demotes, so ioredis need not listen for it: its
 * `failoverDetector` ends a client for good that is just connecting.
 */
export function redisPlace(redisUrl: string): { href: string; place: Partial<Settings> } {
  const url = new URL(redisUrl)
  const { hostname, protocol, searchParams } = url
  const [caFile, sentinels, password] = ['ca', 'sentinels', 'sentinel_password'].map((name) =>
    searchParams.get(name),
  )
  const place: Partial<Settings> = {}
  if (caFile) place.tls = { ca: readFileSync(caFile, 'utf8') }
  if (sentinels) {
    place.name = hostname
    place.sentinels = sentinels.split(',').map((address) => {
      const [host = '', port = '26379'] = address.split(':')
      return { host, port: Number(port) }
    })
    place.enableTLSForSentinelMode = protocol === 'rediss:'
    if (password) place.sentinelPassword = password
  }
  url.search = ''
  return { href: url.href, place }
}

/** Another connection with the settings of this one. */
export function connectLike(redis: Redis, log: Logger, name: string): Connection {
  return disposable(redis.duplicate({ connectionName: name }), log)
}

// Under exactOptionalPropertyTypes ioredis takes no `undefined` here, which its own type allows.
type Settings = Omit<RedisOptions, 'replyMapping'>

const settings: Settings = {
  // Raw calls have other shapes under RESP3.
  protocol: 2,
  enableOfflineQueue: false,
  autoResendUnfulfilledCommands: false,
  // With null (wait for ever) a command whose connection was lost would neither be sent again nor fail.
  maxRetriesPerRequest: 0,
  retryStrategy: (times) => Math.min(25 * 2 ** times, 1_000),
  socketTimeout: silentMs,
  // A demoted master answers READONLY: connect again, to whoever is master now.
  reconnectOnError: (error) => redisCode(error) === 'READONLY',
}

function disposable(redis: Redis, log: Logger): Connection {
  let away = false
  redis.on('error', (err) => {
    if (away) return
    away = true
    log.warn({ err }, 'redis is away')
  })
  redis.on('ready', () => {
    if (away) log.info('redis is back')
    away = false
  })
  // Nothing is in flight any more when the owner disposes: a QUIT would only wait for a dead server.
  return Object.assign(redis, { [Symbol.asyncDispose]: async () => redis.disconnect() })
}

/** What a failed Redis command means: `away` and `full` pass, a `fault` does not. */
export type RedisFailure = 'away' | 'full' | 'fault'

const awayCodes = new Set([
  'LOADING',
  'BUSY',
  'READONLY',
  'MASTERDOWN',
  'TRYAGAIN',
  'CLUSTERDOWN',
  'NOREPLICAS',
  'UNBLOCKED',
])

const connectionErrors = new Set(['Error', 'AbortError', 'MaxRetriesPerRequestError'])

/** Judges an error that a command of ioredis has thrown. */
export function redisFailure(error: unknown): RedisFailure {
  const code = redisCode(error)
  if (code === 'OOM' || code === 'MISCONF') return 'full'
  if (code === 'EXECABORT') return refusedTransaction(error)
  if (code !== null) return awayCodes.has(code) ? 'away' : 'fault'
  // What is no reply is the connection's; ioredis gives most of it no code and no class of its own.
  return error instanceof Error && connectionErrors.has(error.name) ? 'away' : 'fault'
}

/** What a discarded MULTI means is what its first refused command means; ioredis keeps that with the error. */
function refusedTransaction(error: unknown): RedisFailure {
  const { previousErrors = [] } = error as { previousErrors?: readonly unknown[] }
  return previousErrors.length === 0 ? 'fault' : redisFailure(previousErrors[0])
}

/** The leading word of an error reply, which is its code; null for an error that is no reply. */
export function redisCode(error: unknown): string | null {
  if (!(error instanceof Error) || error.name !== 'ReplyError') return null
  return error.message.split(' ', 1)[0] ?? null
}

const connectMs = 1_000

/** Resolves when a fresh connection is ready, or when it is clear that Redis is away. */
export async function settled(redis: Redis, signal: AbortSignal): Promise<void> {
  if (redis.status === 'ready') return
  const ready = AbortSignal.any([signal, AbortSignal.timeout(connectMs)])
  await once(redis, 'ready', { signal: ready }).catch(() => {})
}

/**
 * Repeats a call while Redis is away or full, telling `because` each time. Throws its faults, and the
 * signal's reason when that aborts meanwhile.
 */
export async function throughOutages<T>(
  call: () => Promise<T>,
  signal: AbortSignal,
  because: (failure: 'away' | 'full') => void = () => {},
): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await call()
    } catch (error) {
      const failure = redisFailure(error)
      if (failure === 'fault') throw error
      because(failure)
      await sleep(backoff(attempt, { initialMs: 50, maxMs: 1_000 }), signal)
      signal.throwIfAborted()
    }
  }
}
