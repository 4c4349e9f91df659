/** Connections to Redis, and what its failures mean. */
import type { Redis } from 'ioredis'
import type { Logger } from 'pino'

export interface RedisSettings {
  /** redis://, rediss://, with user, password and database. */
  redisUrl: string
  log: Logger
  /** Shown by CLIENT LIST. */
  name?: string
}

/** A connection that closes at the end of `await using`. */
export type Connection = Redis & AsyncDisposable

/**
 * A connection that queues nothing while Redis is away and sends nothing twice: a command then fails
 * at once, and its caller decides. It reconnects for ever.
 */
export function connectRedis(_settings: RedisSettings): Connection {
  throw new Error('not yet')
}

/** What a failed Redis command means: `away` and `full` pass, a `fault` does not. */
export type RedisFailure = 'away' | 'full' | 'fault'

export function redisFailure(_error: unknown): RedisFailure {
  throw new Error('not yet')
}
