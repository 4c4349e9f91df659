/** What has been tried in vain, kept in Redis so that a restart goes on counting. */
import type { Redis } from 'ioredis'
import { throughOutages } from '../shared/redis.ts'
import { attemptsKey } from '../shared/streams/names.ts'

/** The failed tries of one request. In Redis: a field of the account's DID, as JSON. */
export interface Attempts {
  /** The id of the request; what another request left behind does not count. */
  entry: string
  attempts: number
  first_failed_at: string
  /** When the next try is due. */
  retry_at: string
  reason: string
}

export interface AttemptStore {
  of: (did: string, entry: string) => Promise<Attempts | null>
  keep: (did: string, attempts: Attempts) => Promise<void>
  /** Call it before the request is acknowledged: what is forgotten too early is only tried again. */
  forget: (did: string) => Promise<void>
}

/** Waits while Redis is away or full; throws when the signal aborts meanwhile. */
export function createAttempts(redis: Redis, signal: AbortSignal): AttemptStore {
  return {
    async of(did, entry) {
      const text = await throughOutages(() => redis.hget(attemptsKey, did), signal)
      const found = text === null ? null : parse(text)
      return found?.entry === entry ? found : null
    },
    async keep(did, attempts) {
      const text = JSON.stringify(attempts)
      await throughOutages(() => redis.hset(attemptsKey, did, text), signal)
    },
    async forget(did) {
      await throughOutages(() => redis.hdel(attemptsKey, did), signal)
    },
  }
}

/** What a hand has spoilt counts as nothing. */
function parse(text: string): Attempts | null {
  try {
    const value = JSON.parse(text)
    const isWhole =
      Number.isSafeInteger(value.attempts) && !Number.isNaN(Date.parse(value.retry_at))
    return isWhole && !Number.isNaN(Date.parse(value.first_failed_at)) ? value : null
  } catch {
    return null
  }
}
