/** At-least-once consumption of one stream by one named member of a consumer group. */
import type { Redis } from 'ioredis'
import type { Logger } from 'pino'
import type { StreamMetrics } from './metrics.ts'
import type { StreamGroups } from './names.ts'

export interface DeadLetter {
  /** A short phrase from a bounded set: it is a metric label. */
  reason: string
  /** What went wrong, for a person. */
  error: string
  /** Fields beside the contract's, or instead of them: `attempts`, `host`, `first_failed_at`. */
  extra?: Record<string, string>
}

/**
 * What became of an entry. `pending` gives it back: it stays in the group's pending list and is
 * delivered again, to anyone, after `minIdleMs`.
 */
export type Outcome =
  | 'applied'
  | 'stale'
  | `refused:${string}`
  | { deadLetter: DeadLetter }
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
  /** How long a stop may take to finish what is in hand; the rest stays pending. Default 6 000. */
  stopWithinMs?: number
}

/** Another process under the same consumer name is at work. */
export class DuplicateConsumerError extends Error {
  override name = 'DuplicateConsumerError'
}

/**
 * Reads and applies until the signal aborts, then finishes what is in hand and returns. Throws
 * `DuplicateConsumerError`, and whatever `apply` throws that is a crash.
 */
export async function consume<E>(_consumer: Consumer<E>): Promise<void> {
  throw new Error('not yet')
}
